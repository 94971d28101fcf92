"""The child's side of the channels: requests in turn, what is no longer wanted, the parent's death."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, BinaryIO

from worker.training.errors import TrainingCancelled
from worker.training.events import CONTROL_FD, EVENTS_FD
from worker.training.parent_link import kill_own_group
from worker.training.previews.protocol import Reply, encode

if TYPE_CHECKING:
    from collections.abc import Mapping


class PreviewLink:
    """Hands out request numbers and takes replies.

    Args:
        replies: Where replies go.
    """

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> PreviewLink:
        """Return a link over the pipes that the environment names.

        Raises:
            KeyError: It names none: a preview process is of no use without a parent.
        """
        link = cls(os.fdopen(int(environment[EVENTS_FD]), "wb"))
        control = os.fdopen(int(environment[CONTROL_FD]), "rb")
        threading.Thread(target=link.listen, args=(control,), name="control", daemon=True).start()
        return link

    def listen(self, control: BinaryIO) -> None:
        """Follow the control channel until its end, which means that the parent is gone; then kill the whole group."""
        for line in control:
            word, _, number = line.decode("ascii", "replace").strip().partition(" ")
            if word == "preview" and number.isdecimal():
                self._asked.put(int(number))
            elif word == "cancel" and number.isdecimal():
                self._cancelled.add(int(number))
        kill_own_group()

    def next(self) -> int:
        """Wait for the next request and return its number."""
        return self._asked.get()

    def check(self, number: int) -> None:
        """Return unless the parent has taken request ``number`` back.

        Raises:
            TrainingCancelled: It has.
        """
        if number in self._cancelled:
            raise TrainingCancelled

    def send(self, reply: Reply) -> None:
        """Tell the parent at once."""
        self._replies.write(encode(reply))
        self._replies.flush()

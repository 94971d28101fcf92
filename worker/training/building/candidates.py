"""Rows on their way through the stages. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.keys import text_digest

if TYPE_CHECKING:
    from worker.training.data.examples import NLFTExample

REFERENCE_INDEX = -1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row with a response.

    Attributes:
        line: Its question's line in the training file.
        index: Which response to it; ``REFERENCE_INDEX`` for the reference taken as one.
        example: The row so far.
        is_made: A stage wrote its response or judgment, so it may be dropped where its text turns out unfit.
        is_whole: The response is neither empty nor cut off.
    """

    line: int
    index: int
    example: NLFTExample
    is_made: bool = False
    is_whole: bool = True

    @property
    def digest(self) -> str:
        """What verdicts on the response are told by."""
        return text_digest(self.example.reference, self.example.answer_text)

    @property
    def question(self) -> str:
        """A digest of what is asked, equal for all responses to a question wherever their rows stand."""
        asked = msgspec.json.encode((self.example.prompt, self.example.tools, self.example.reference))
        return text_digest(asked.decode())

"""Runs the training library's model import in a process of its own, since this one never loads torch."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from app.cli.output import CommandError
from app.embedded.process import launch_command
from app.models.service import BaseModelFacts

# Progress bars and hints of the libraries below; the last line still explains a failure.
_CHATTER = re.compile(r"%\||^\[")

_INTERRUPT_SECONDS = 10.0


class ModelImport:
    """An import that runs from construction on; ``facts`` waits for it.

    Args:
        source: A package that ships a GGUF file, a ``.gguf`` file or a Hugging Face folder.
        cache: Folder of imported models.
        name: Name of the model; by default the source's own.
    """

    def __init__(self, source: str, cache: Path, name: str | None = None) -> None:
        self._source = source
        self._name = name
        options = ["--cache", str(cache), *(["--name", name] if name else [])]
        command = [sys.executable, "-m", "worker.training", "import-model", source, *options]
        self._process = subprocess.Popen(
            launch_command(command, death_signal=signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def facts(self, report: Callable[[str], None]) -> BaseModelFacts:
        """Wait for the end, tell ``report`` each line of progress, and return what is to be registered.

        Raises:
            CommandError: The source is no model that can be imported, or the ``worker`` extra is not installed.
        """
        assert self._process.stderr
        assert self._process.stdout
        said = ""
        for line in self._process.stderr:
            said = line.strip() or said
            if not _CHATTER.search(said):
                report(said)
        answer = self._process.stdout.read()
        if self._process.wait() != 0:
            raise CommandError(f"Cannot import {self._source}: {said}")
        found: dict[str, Any] = json.loads(answer)
        named = {name: found.pop(name) for name in ("path", "digest", "architecture", "parameters", "context_length")}
        return BaseModelFacts(id=self._name or Path(named["path"]).name, **named, details=found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Interrupted rather than killed, so that it removes its half-written folder.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=_INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

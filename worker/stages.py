"""Results of stages on their way between a workspace and storage."""

import re
from pathlib import Path

from app.core.logging import get_logger
from app.db.session import transaction
from app.jobs import stages
from app.storage import BlobDigestError, BlobNotFoundError
from worker.context import WorkerContext
from worker.training.building.keys import scores_key, stage_keys, wants_scores
from worker.training.building.parts import MOST_PARTS, part_path
from worker.training.data.reader import read_rows
from worker.training.errors import DatasetError
from worker.training.events import StageEvent
from worker.training.spec import STAGES_DIR, TRAINING_FILE, TrainingSpec

_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LOG = get_logger(__name__)


def find_part(folder: Path, event: StageEvent) -> Path:
    """Return the file that ``event`` speaks of, in the workspace ``folder``.

    Raises:
        ValueError: The path leads out of the stages folder, or to something that is no file, or its name is odd.
    """
    if not _KEY.fullmatch(event.key) or not 0 <= event.part < MOST_PARTS:
        raise ValueError("a stage part with an unexpected name")
    path = folder / event.path
    if not path.resolve().is_relative_to((folder / STAGES_DIR).resolve()):
        raise ValueError("a stage part outside of the stages folder")
    if path.is_symlink() or not path.is_file():
        raise ValueError("a stage part that is no file")
    return path


def fetch_parts(context: WorkerContext, project_id: str, spec: TrainingSpec, folder: Path) -> int:
    """Put what earlier attempts and jobs of the project have made of the same rows into ``folder``; return how much.

    A part that is gone or damaged is left out: the child makes it again.
    """
    with transaction(context.factory) as session:
        if not stages.has_parts(session, project_id):
            return 0
    keys = _keys(spec, folder)
    if context.settings.score_cache_bytes and wants_scores(spec):
        keys.append(("scoring", scores_key(spec.base_model.digest)))
    with transaction(context.factory) as session:
        parts = stages.use_parts(session, project_id, keys)
    fetched = 0
    for part, sha256 in parts:
        path = folder / part_path(part.stage, part.key, part.part)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            context.store.download(sha256, path)
            fetched += 1
        except (BlobNotFoundError, BlobDigestError) as error:
            _LOG.warning("stage part is damaged", stage=part.stage, part=part.part, error=str(error))
    return fetched


def _keys(spec: TrainingSpec, folder: Path) -> list[tuple[str, str]]:
    try:
        with (folder / TRAINING_FILE).open("rb") as file:
            return list(stage_keys(spec, read_rows(file)).items())
    except DatasetError:
        return []  # the child will say what is wrong with the rows

"""What may leave a workspace: allow-listed files, checked checkpoints, a deterministic archive."""

import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from app.core.logging import get_logger
from worker.training.spec import CHECKPOINTS_DIR, DATASET_FILE, MANIFEST_FILE, OUTPUTS_DIR

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
METRICS_FILE = "metrics.csv"
ARCHIVE_FILE = "adapter.tar"
REQUIRED_OUTPUTS = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, METRICS_FILE)
ALLOWED_OUTPUTS = frozenset(
    {
        *REQUIRED_OUTPUTS,
        "README.md",
        "added_tokens.json",
        "chat_template.jinja",
        DATASET_FILE,
        "manifest.json",
        "merges.txt",
        "report.html",
        "row_losses.csv",
        "saliency.jsonl",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
_CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_LOG = get_logger(__name__)


def list_outputs(folder: Path) -> list[Path]:
    """Return the allow-listed regular files in ``folder``/outputs, sorted by name; anything else is left behind."""
    found = sorted((folder / OUTPUTS_DIR).iterdir())
    allowed = [path for path in found if path.name in ALLOWED_OUTPUTS and path.is_file() and not path.is_symlink()]
    for path in set(found) - set(allowed):
        _LOG.warning("output not on the allow list", workspace=folder.name, name=path.name)
    return allowed


def list_checkpoint_files(folder: Path, checkpoint: str) -> dict[str, Path]:
    """Return the files of the checkpoint at the workspace-relative path, by their name inside it.

    Raises:
        ValueError: The path leads out of the checkpoints folder, or a file has an unexpected name, or it is incomplete.
    """
    root = (folder / checkpoint).resolve()
    if root.parent != (folder / CHECKPOINTS_DIR).resolve():
        raise ValueError("a checkpoint outside of the checkpoints folder")
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if path.is_symlink() or not _CHECKPOINT_NAME.fullmatch(name):
            raise ValueError("a checkpoint holds a file with an unexpected name")
    if MANIFEST_FILE not in files:
        raise ValueError("a checkpoint without a manifest is not complete")
    return files


def pack(files: Iterable[Path], target: Path) -> None:
    """Write an uncompressed tar of ``files`` that depends on their names and bytes only."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(files, key=lambda file: file.name):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(entry, content)

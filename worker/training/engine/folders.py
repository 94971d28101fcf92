"""Folders that are complete or absent: files on disk first, then a manifest with their digests, then the name."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from worker.training.errors import CheckpointError
from worker.training.spec import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def describe_file(path: Path) -> dict[str, str | int]:
    """Return ``sha256`` and ``bytes`` of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Put every file of ``folder`` on disk, then write ``manifest.json`` with ``facts`` and the files' digests."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    for path in paths:
        _sync(path)
    manifest = {**facts, "files": {path.name: describe_file(path) for path in paths}}
    target = folder / MANIFEST_FILE
    target.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _sync(target)
    _sync(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of ``folder`` after checking every file in it.

    Raises:
        CheckpointError: The manifest or a file is missing or altered.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            if describe_file(folder / name) != expected:
                raise CheckpointError(f"{name} of the checkpoint is damaged; resume from an earlier one")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("the checkpoint folder is incomplete; resume from an earlier one") from error
    return manifest


def publish_folder(folder: Path, target: Path) -> None:
    """Give a finished ``folder`` its name, so that ``target`` is never seen half written."""
    folder.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Python environments of contestants whose packages do not agree with the product's: ``make bench-peers``."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(sys.prefix) / "peers"


def python_of(environment: str) -> str:
    """Return the interpreter of ``environment``; where it is not installed or has no name, the one that runs this."""
    own = FOLDER / environment / "bin" / "python"
    return str(own) if environment and own.is_file() else sys.executable


def versions() -> dict[str, str]:
    """Return the versions of the peers that have an environment here, by their names."""
    paths = {path.name: path.glob("lib/python*/site-packages") for path in FOLDER.glob("*")}
    return {
        name: found.version
        for name, folders in paths.items()
        for found in distributions(name=name, path=[str(folder) for folder in folders])
    }

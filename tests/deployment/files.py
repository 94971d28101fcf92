"""Reads the deployment files as data."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def compose() -> dict[str, Any]:
    """Return docker-compose.yml with its merges applied."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def stages() -> dict[str, list[str]]:
    """Return the instructions of each Dockerfile stage, continuation lines joined, the stage's base first."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = [*found.get(match[1], [])]
        elif line and not line.startswith("#"):
            found[next(reversed(found))].append(line)
    return found


def instruction(stage: str, name: str) -> list[str]:
    """Return the arguments of every ``name`` instruction of a stage."""
    return [line.removeprefix(f"{name} ") for line in stages()[stage] if line.startswith(f"{name} ")]

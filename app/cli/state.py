"""What ``nlft up`` leaves in its state directory for other commands: addresses and secrets, all closed to others."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.cli.output import CommandError
from app.core.settings import Settings
from app.embedded.directories import write_private


@dataclass(frozen=True)
class StateDirectory:
    """The files of one state directory."""

    path: Path

    @property
    def connection_file(self) -> Path:
        """Base URL and API key for clients; exists while the service is ready."""
        return self.path / "connection.json"

    @property
    def environment_file(self) -> Path:
        """Variables under which operator commands find the running service's database."""
        return self.path / "environment.json"

    @property
    def pepper_file(self) -> Path:
        """The generated NLFT_API_KEY_PEPPER."""
        return self.path / "pepper"

    @property
    def key_file(self) -> Path:
        """The default project's API key."""
        return self.path / "api_key"

    def log(self, name: str) -> Path:
        """Log file of one child process."""
        return self.path / f"{name}.log"

    def write(self, file: Path, record: dict[str, str]) -> None:
        """Write one of the JSON files, mode 0600, all at once."""
        write_private(file, json.dumps(record) + "\n")

    def forget(self) -> None:
        """Remove what tells others that the service is there."""
        self.connection_file.unlink(missing_ok=True)
        self.environment_file.unlink(missing_ok=True)


def state_directory(given: Path | None) -> StateDirectory:
    """Return the state directory of ``--state-dir``, or else of the settings."""
    return StateDirectory((given or Settings().state_dir).expanduser().absolute())


def operator_settings(given: Path | None) -> Settings:
    """Return settings that reach the database: of the environment, or of the ``nlft up`` that runs on the directory.

    Raises:
        CommandError: Neither DATABASE_URL is set nor does the service run.
    """
    if os.environ.get("DATABASE_URL"):
        return Settings()
    state = state_directory(given)
    try:
        found: dict[str, str] = json.loads(state.environment_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommandError(f"No service runs on {state.path}. Start it with `nlft up`, or set DATABASE_URL.") from None
    # Settings take variables by alias or by field name.
    named: dict[str, Any] = {
        name.removeprefix("NLFT_").lower() if name.startswith("NLFT_") else name: value for name, value in found.items()
    }
    return Settings(**named)

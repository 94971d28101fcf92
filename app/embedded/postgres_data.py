"""The data directory of the embedded PostgreSQL: made once, checked on every start, copied from a template in tests."""

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from app.embedded.directories import ensure_private, locked_wait, write_private
from app.embedded.errors import IncompatibleDataError, StartError
from app.embedded.identity import hand_over, owner_of
from app.embedded.process import Identity, launch_command
from app.embedded.providers import PostgresBinaries

SUPERUSER = "nlft"
_INITDB_SECONDS = 120.0


def prepare_data(
    data: Path, binaries: PostgresBinaries, identity: Identity, *, password: str, template_cache: Path | None = None
) -> None:
    """Make ``data`` a usable data directory: check the version of an existing one, make a new one otherwise.

    Args:
        data: The directory; its parent is private and locked by the caller.
        binaries: The server that will run on it.
        identity: Whom that server runs as.
        password: Superuser password of a new directory.
        template_cache: Where initialised directories are kept to be copied; None runs initdb.

    Raises:
        IncompatibleDataError: ``data`` was written by another major version.
        StartError: initdb or the change of the password failed.
    """
    if (data / "PG_VERSION").is_file():
        _check_version(data, binaries)
    elif template_cache is None:
        _make(data, binaries, identity, password=password)
    else:
        shutil.copytree(_template(template_cache, binaries, identity), data, symlinks=True)
        hand_over(data, owner_of(identity))
        _set_password(data, binaries, identity, password)
    hand_over(data, owner_of(identity))


def _check_version(data: Path, binaries: PostgresBinaries) -> None:
    found = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if found != str(binaries.major):
        raise IncompatibleDataError(
            f"{data} was written by PostgreSQL {found}, and the server here is {binaries.major}. "
            f"Set NLFT_POSTGRES_BIN to the bin folder of a PostgreSQL {found} to go on; or export there with pg_dump, "
            "choose a new state directory and import with psql."
        )


def _make(data: Path, binaries: PostgresBinaries, identity: Identity, *, password: str, durable: bool = True) -> None:
    """Run initdb in a folder beside ``data`` and rename it, so that an interrupted run leaves no half directory."""
    partial = data.with_name(f"{data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    hand_over(partial, owner_of(identity))
    password_file = data.with_name(f"{data.name}.password")
    write_private(password_file, password)
    try:
        command = [str(binaries.initdb), "--pgdata", str(partial), "--pwfile", str(password_file)]
        _run([*command, *_initdb_options(binaries.major), *([] if durable else ["--no-sync"])], identity)
    finally:
        password_file.unlink()
    partial.rename(data)


def _initdb_options(major: int) -> list[str]:
    # The builtin provider sorts the same everywhere and needs no ICU; before 17 it is missing, and C is nearest.
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    return [
        f"--username={SUPERUSER}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        *locale,
        "--data-checksums",
        "--no-instructions",
    ]


def _template(cache: Path, binaries: PostgresBinaries, identity: Identity) -> Path:
    """Return an initialised directory for exactly these binaries and options; make it once for all processes."""
    digest = hashlib.sha256(repr(_initdb_options(binaries.major)).encode())
    for program in (binaries.initdb, binaries.postgres):
        digest.update(program.read_bytes())
    template = ensure_private(cache) / f"postgres-{binaries.major}-{digest.hexdigest()[:16]}"
    with locked_wait(cache):
        if not template.is_dir():
            # Nobody learns this password: every copy gets its own.
            _make(template, binaries, identity, password=secrets.token_hex(32), durable=False)
            hand_over(template, os.geteuid())
    return template


def _set_password(data: Path, binaries: PostgresBinaries, identity: Identity, password: str) -> None:
    command = [str(binaries.postgres), "--single", "-D", str(data), "-c", "log_statement=none", "postgres"]
    _run(command, identity, standard_input=f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'\n")


def _run(command: list[str], identity: Identity, *, standard_input: str = "") -> None:
    with tempfile.TemporaryFile("w+") as output:
        result = subprocess.run(
            launch_command(command, death_signal=signal.SIGKILL, identity=identity),
            input=standard_input,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_INITDB_SECONDS,
        )
        if result.returncode != 0:
            output.seek(0)
            raise StartError(f"{Path(command[0]).name} failed with code {result.returncode}:\n{output.read()[-2000:]}")

"""Whom PostgreSQL runs as: it refuses root, and we neither create users nor open folders to others.

As a normal user nothing is needed. As root, in this order: a user namespace in which root appears as an unprivileged
user (data stays owned by root); where namespaces are forbidden, that user itself, with the one capability that reaches
root's folders (data then belongs to that user, inside our closed directory).
"""

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

from app.embedded.errors import StartError
from app.embedded.process import SAME, Identity, launch_command


def choose_identity(program: Path) -> Identity:
    """Return the first identity under which ``program --version`` runs and is accepted.

    Raises:
        StartError: We are root and neither way works on this host.
    """
    if os.geteuid() != 0:
        return SAME
    reasons = []
    if sys.platform.startswith("linux"):
        uid = _unprivileged_uid()
        for identity in (Identity("namespace", uid), Identity("capability", uid)):
            failure = _try(program, identity)
            if failure is None:
                return identity
            reasons.append(f"{identity.kind}: {failure}")
    raise StartError(
        "PostgreSQL refuses to run as root, and this host allows neither user namespaces nor dropping privileges "
        f"({'; '.join(reasons) or 'not Linux'}). Run as a normal user, or set DATABASE_URL to a server of your own."
    )


def owner_of(identity: Identity) -> int:
    """Return the uid, as seen by us, that must own the data directory."""
    return identity.uid if identity.kind == "capability" else os.geteuid()


def hand_over(directory: Path, uid: int) -> None:
    """Give ``directory`` and all below it to ``uid`` unless it is the owner already."""
    if directory.stat().st_uid == uid:
        return
    for folder, _, names in os.walk(directory):
        os.chown(folder, uid, -1)
        for name in names:
            os.chown(Path(folder, name), uid, -1, follow_symlinks=False)


def _unprivileged_uid() -> int:
    """Return the uid of ``nobody`` or of any other account but root; initdb looks its name up."""
    accounts = {account.pw_name: account.pw_uid for account in pwd.getpwall() if account.pw_uid != 0}
    return accounts.get("nobody", next(iter(accounts.values()), 65534))


def _try(program: Path, identity: Identity) -> str | None:
    command = launch_command([str(program), "--version"], death_signal=signal.SIGKILL, identity=identity)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["failed"])[-1]

"""Become one server process: die with the parent, run under an identity the server accepts, then exec.

Run as a script by ``app.embedded.process`` (``python -I -S launcher.py PARENT SIGNAL IDENTITY UID -- COMMAND…``),
because code between fork and exec of a threaded parent is not safe. Linux only; imports only the standard library.
"""

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CLONE_NEWUSER = 0x10000000
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Apply the identity, arm the parent-death signal and exec the command; never returns."""
    parent, death_signal, identity, uid = int(arguments[0]), int(arguments[1]), arguments[2], int(arguments[3])
    command = arguments[5:]
    if identity == "namespace":
        _enter_user_namespace(uid)
    elif identity == "capability":
        _drop_to(uid)
    # Last, because every change of credentials clears the signal.
    _call("prctl", _PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent ended before the server started")
    os.execv(command[0], command)


def _enter_user_namespace(uid: int) -> None:
    """Appear as ``uid`` inside a new user namespace; outside, files stay owned by the caller."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{uid} {outer_gid} 1", encoding="ascii")


def _drop_to(uid: int) -> None:
    """Become ``uid`` and keep one capability, so that folders of root stay reachable without being opened to others."""
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    bit = 1 << _CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _call("capset", header, effective_permitted_inheritable)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        sys.exit(f"{name}: {os.strerror(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])

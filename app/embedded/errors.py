"""What can go wrong with an embedded server; every message names the remedy.

EmbeddedServerError
├── MissingBinariesError      no provider offers the server
├── InUseError                another process holds the directory
├── IncompatibleDataError     the data directory belongs to another major version
├── UnsafeDirectoryError      the directory is open to other users
└── StartError                the server ended or stayed silent; carries the end of its log
"""


class EmbeddedServerError(Exception):
    """Base of this tree."""


class MissingBinariesError(EmbeddedServerError):
    """No provider offers the server's binaries."""


class InUseError(EmbeddedServerError):
    """Another process holds the directory.

    Args:
        directory: The directory that was asked for.
        pid: Process id written in the lock file; None when it could not be read.
    """

    def __init__(self, directory: str, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{directory} is in use by {owner}. Stop that process first, or choose another state directory."
        )
        self.pid = pid


class IncompatibleDataError(EmbeddedServerError):
    """The data directory was written by another major version of PostgreSQL."""


class UnsafeDirectoryError(EmbeddedServerError):
    """The directory exists and is open to other users, or belongs to one."""


class StartError(EmbeddedServerError):
    """The server ended or stayed silent while starting."""

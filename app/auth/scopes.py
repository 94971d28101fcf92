"""What a key may do. Every route but the health checks declares one scope."""

from enum import StrEnum


class Scope(StrEnum):
    """A permission; ``admin`` manages projects and keys of the whole installation and implies nothing else."""

    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    ADAPTERS_READ = "adapters:read"
    ADAPTERS_WRITE = "adapters:write"
    ADMIN = "admin"


PROJECT_SCOPES = tuple(scope for scope in Scope if scope is not Scope.ADMIN)
"""What a new key may do unless told otherwise: everything inside its project."""

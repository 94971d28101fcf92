"""Entry point of ``python -m worker.training``; see ``command``. Offline mode comes first: it only acts on import."""

import sys

from worker.training import offline  # noqa: F401
from worker.training.command import main

if __name__ == "__main__":
    sys.exit(main())

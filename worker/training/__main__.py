"""Entry point of ``python -m worker.training``; see ``command``. The environment comes first: it is read on import."""

import sys

from worker.training import environment  # noqa: F401
from worker.training.command import main

if __name__ == "__main__":
    sys.exit(main())

"""A real worker process whose children are scripted and may train several jobs; the rest comes from the environment."""

import sys
from pathlib import Path

from app.core.settings import get_settings
from worker.__main__ import main
from worker.context import WorkerContext, install_context

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "worker" / "scripted_group.py"))

if __name__ == "__main__":
    install_context(WorkerContext.from_settings(get_settings(), child_command=COMMAND))
    main()

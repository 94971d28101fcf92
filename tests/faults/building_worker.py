"""A real worker process whose children build rows as scripted; everything else comes from the environment."""

from app.core.settings import get_settings
from tests.worker.scripted_jobs import BUILDING_COMMAND
from worker.__main__ import main
from worker.context import WorkerContext, install_context

if __name__ == "__main__":
    install_context(WorkerContext.from_settings(get_settings(), child_command=BUILDING_COMMAND))
    main()

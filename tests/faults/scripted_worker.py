"""A real worker process with scripted children; everything else comes from the environment."""

from app.core.settings import get_settings
from tests.worker.previews.scripts import scripted_context
from worker.__main__ import main
from worker.context import install_context

if __name__ == "__main__":
    install_context(scripted_context(get_settings()))
    main()

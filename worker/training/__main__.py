"""Entry point of ``python -m worker.training``; see ``command``. The environment comes first: it is read on import."""

import gc

# A million objects are made by imports and stay: looking for garbage among them again and again takes a second.
gc.disable()

from worker.training import environment  # noqa: E402, F401
from worker.training.command import end_process, main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    end_process(main())

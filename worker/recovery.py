"""What a worker process does besides running what it is told: polls for jobs whose hints were lost, and reconciles."""

import random
import threading
from collections.abc import Callable

from app.jobs.reconcile import start_reconcile_loop
from worker import runner
from worker.context import WorkerContext


def start_background(context: WorkerContext) -> Callable[[], None]:
    """Start the reconcile loop, one polling thread per slot, and the trainer that waits for the first job.

    Returns:
        A function to call once ``context.draining`` is set; it waits until jobs that a poll found have been put back.
    """
    context.standby.prepare()
    stop_reconciling = start_reconcile_loop(context.settings)
    # A poll that finds a job becomes its slot thread, so no slot's poll may wait behind another's job.
    pollers = [
        threading.Thread(target=_poll, args=(context,), name=f"poll-{number}", daemon=True)
        for number in range(context.settings.worker_slots)
    ]
    for poller in pollers:
        poller.start()

    def stop() -> None:
        for poller in pollers:
            poller.join()
        context.standby.close()
        context.previews.close()
        stop_reconciling()

    return stop


def _poll(context: WorkerContext) -> None:
    while not context.draining.wait(context.settings.poll_seconds * random.uniform(0.75, 1.25)):
        runner.run_available(context)

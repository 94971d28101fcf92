"""A trainer of several runs that trains nothing: every run is a ``scripted_trainer.py`` of its own behind shared pipes.

A workspace for one run is handed to that trainer as it is. In a group its exit is told as the end of the run; the key
``kill_group`` of a run's script, a step, is when the whole process dies.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from worker.training.events import CONTROL_FD, EVENTS_FD, MetricsEvent, decode
from worker.training.group_protocol import end_line, is_group, number_line, read_group, split_line
from worker.training.spec import SPEC_FILE, TrainingSpec
from worker.training.standby import await_job

TRAINER = Path(__file__).with_name("scripted_trainer.py")


class Run:
    """One run: a scripted trainer, and the ends of its pipes."""

    def __init__(self, number: int, workspace: Path) -> None:
        self.number = number
        events, own_events = os.pipe()
        own_control, control = os.pipe()
        spec = TrainingSpec.model_validate_json((workspace / SPEC_FILE).read_bytes())
        self._deadly_step = spec.hyperparameters.get("kill_group")
        self._events = os.fdopen(events, "rb")
        self.control = os.fdopen(control, "wb", buffering=0)
        self._process = subprocess.Popen(
            [sys.executable, str(TRAINER), str(workspace)],
            env={**os.environ, EVENTS_FD: str(own_events), CONTROL_FD: str(own_control)},
            pass_fds=(own_events, own_control),
            process_group=0,
        )
        os.close(own_events)
        os.close(own_control)

    def carry(self) -> None:
        """Pass on what the trainer says, and how it ends."""
        for line in self._events:
            os.write(EVENTS, number_line(self.number, line))
            event = decode(line) if line.startswith(b"{") else None
            if isinstance(event, MetricsEvent) and event.step == self._deadly_step:
                os.killpg(0, signal.SIGKILL)
        status = self._process.wait()
        os.write(EVENTS, number_line(self.number, end_line(status if status >= 0 else 1)))


def listen(runs: list[Run]) -> None:
    """Pass on what the parent says; its end is that of everything."""
    for line in os.fdopen(int(os.environ[CONTROL_FD]), "rb"):
        number, rest = split_line(line)
        runs[number].control.write(rest)
    os.killpg(0, signal.SIGKILL)


def main(workspace: Path) -> None:
    """Do what the workspace says."""
    if not is_group(workspace):
        os.execv(sys.executable, [sys.executable, str(TRAINER), str(workspace)])
    runs = [Run(number, one) for number, one in enumerate(read_group(workspace))]
    threading.Thread(target=listen, args=(runs,), daemon=True).start()
    carriers = [threading.Thread(target=run.carry) for run in runs]
    for carrier in carriers:
        carrier.start()
    for carrier in carriers:
        carrier.join()


if __name__ == "__main__":
    EVENTS = int(os.environ[EVENTS_FD])
    main(await_job(Path(sys.argv[2]), os.environ) if sys.argv[1] == "--stand-by" else Path(sys.argv[1]))

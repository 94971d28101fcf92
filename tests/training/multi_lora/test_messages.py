"""What runs on one base tell about going together."""

from pathlib import Path

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.multi_lora.runs import RUNS, begin, join
from worker.training.events import MessageEvent
from worker.training.multi_lora.group import JobGroup


def test_a_run_that_shares_no_passes_says_why(tmp_path: Path, tiny_model: TinyModel) -> None:
    group, observers = JobGroup(), {name: RecordingObserver() for name in ("plain", "dropout")}
    for name, observer in observers.items():
        join(group, tmp_path / name, begin(tmp_path / name, tiny_model(), RUNS[name]), observer)
    group.run()
    told = {
        name: [event.message for event in observer.of(MessageEvent) if "no passes" in event.message]
        for name, observer in observers.items()
    }
    assert told["plain"] == []
    assert [message[message.index("(") :] for message in told["dropout"]] == ["(dropout): expect slower steps."]

"""What runs on one base tell about going together."""

from pathlib import Path

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.multi_lora.runs import RUNS, begin, join
from worker.training.events import MessageEvent
from worker.training.multi_lora.group import JobGroup
from worker.training.spec import LoraSettings


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


def test_a_run_in_company_keeps_no_hidden_states_and_says_so(tmp_path: Path, tiny_model: TinyModel) -> None:
    group, observers = JobGroup(), [RecordingObserver(), RecordingObserver()]
    chosen = LoraSettings(r=4, layers_to_transform=[-1], cache_frozen_hidden_states=True)
    for observer, run in zip(observers, ({**RUNS["plain"], "adapter": chosen}, RUNS["plain"]), strict=True):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        join(group, folder, begin(folder, tiny_model(), run), observer)
    group.run()
    told = [[event.message for event in one.of(MessageEvent) if "Hidden states" in event.message] for one in observers]
    assert [len(messages) for messages in told] == [1, 0]
    assert "runs that share a base model compute them together" in told[0][0]

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.fixtures.tiny_models import TinyModel, reference_to
from worker.training.command import load_spec, main, run
from worker.training.errors import ExitCode, SpecError
from worker.training.events import ErrorEvent, Event, ResultEvent
from worker.training.spec import SPEC_FILE, TRAINING_FILE, VALIDATION_FILE, RuntimeSettings, TrainingSpec

ROW = {"messages": [{"role": "user", "content": "q"}], "response": "a"}


Wish = Literal["stop", "cancel"] | None


class Recorder:
    def __init__(self, wish: Wish = None) -> None:
        self.events: list[Event] = []
        self.wish = wish

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> Wish:
        return self.wish


def workspace(folder: Path, model: Path, *rows: object, **changes: object) -> Path:
    spec = TrainingSpec(
        job_id="job",
        base_model=reference_to(model),
        method="supervised",
        hyperparameters={"n_epochs": 1, "max_seq_length": 64},
        runtime=RuntimeSettings(device="cpu", dtype="float32"),
    )
    (folder / "inputs").mkdir()
    (folder / SPEC_FILE).write_text(spec.model_copy(update=changes).model_dump_json())
    for name in (TRAINING_FILE, VALIDATION_FILE):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_ends_with_its_result(tiny_model: TinyModel, tmp_path: Path) -> None:
    recorder = Recorder()
    assert run(workspace(tmp_path, tiny_model(), ROW), recorder) == ExitCode.DONE
    assert isinstance(recorder.events[-1], ResultEvent)
    assert (tmp_path / "outputs" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("wish", "status"), [("stop", ExitCode.STOPPED), ("cancel", ExitCode.CANCELLED)])
def test_wishes_of_the_parent_have_their_own_exit_status(
    tiny_model: TinyModel, tmp_path: Path, wish: Wish, status: ExitCode
) -> None:
    assert run(workspace(tmp_path, tiny_model(), ROW), Recorder(wish)) == status


def test_bad_rows_are_reported_line_by_line(tiny_model: TinyModel, tmp_path: Path) -> None:
    recorder = Recorder()
    assert run(workspace(tmp_path, tiny_model(), ROW, {**ROW, "respons": 1}), recorder) == ExitCode.DATA
    last = recorder.events[-1]
    assert isinstance(last, ErrorEvent)
    assert (last.code, last.param) == ("invalid_training_file", "training_file")
    assert last.data is not None
    assert last.data["problems"][0]["line"] == 2


def test_a_bad_validation_file_has_its_own_code(tiny_model: TinyModel, tmp_path: Path) -> None:
    recorder = Recorder()
    folder = workspace(tmp_path, tiny_model(), ROW, has_validation_file=True)
    (folder / VALIDATION_FILE).write_text("{}")
    assert run(folder, recorder) == ExitCode.DATA
    assert isinstance(recorder.events[-1], ErrorEvent)
    assert recorder.events[-1].code == "invalid_validation_file"


def test_an_altered_model_is_a_configuration_error(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model(), tmp_path / "model"))
    folder = workspace(tmp_path, model, ROW)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    recorder = Recorder()
    assert run(folder, recorder) == ExitCode.CONFIGURATION
    assert isinstance(recorder.events[-1], ErrorEvent)
    assert recorder.events[-1].code == "invalid_base_model"


def test_an_unforeseen_error_is_told_safely(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workspace(tmp_path, tiny_model(), ROW)
    (folder / TRAINING_FILE).unlink()
    recorder = Recorder()
    assert run(folder, recorder) == ExitCode.INTERNAL
    last = recorder.events[-1]
    assert isinstance(last, ErrorEvent)
    assert (last.code, str(folder) in last.message) == ("internal_error", False)
    assert "FileNotFoundError" in caplog.text


def test_specs_are_refused_with_every_fault_and_no_values(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no readable spec\.json"):
        load_spec(tmp_path)
    (tmp_path / SPEC_FILE).write_text('{"method": 5, "colour": "secret"}')
    with pytest.raises(SpecError, match=r"job_id: Field required.*colour") as caught:
        load_spec(tmp_path)
    assert "secret" not in str(caught.value)


def test_importing_prints_facts_on_stdout_and_progress_on_stderr(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-model", str(tiny_model()), "--cache", str(tmp_path), "--name", "tiny"]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == str(tmp_path / "tiny")
    assert "copying config.json" in err


def test_a_failed_import_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-model", "no-such-thing", "--cache", str(tmp_path)]) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert (out, "no installed package" in err) == ("", True)


def test_the_command_line_runs_and_reports_on_standard_output(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.training", "run", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == ExitCode.CONFIGURATION
    assert json.loads(done.stdout)["code"] == "invalid_hyperparameters"


def test_a_process_with_open_connections_takes_no_orderly_way_out(tmp_path: Path) -> None:
    """Its status is the run's, whatever the way out would have come to, and what it has said is not lost."""
    script = tmp_path / "end.py"
    script.write_text(
        "import atexit, os\n"
        "from torch import distributed\n"
        "from worker.training.command import end_process\n"
        f'distributed.init_process_group("gloo", "file://{tmp_path}/meeting", rank=0, world_size=1)\n'
        "atexit.register(os._exit, 99)\n"
        'print("said", end="")\n'
        "end_process(3)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, b"said"), ended.stderr

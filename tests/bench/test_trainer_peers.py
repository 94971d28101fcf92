"""Contestants whose packages have an environment of their own."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.trainer import contest, environments, machine, ours, run
from bench.trainer.points import ROOT
from bench.trainer.record import read_lines
from bench.trainer.variants import VARIANTS
from tests.bench.first_losses import points

PEERS = ("torchtune", "unsloth")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_competes_at_every_measured_point(name: str) -> None:
    ways = [variant for variant in VARIANTS.values() if variant.environment == name]
    assert {point for variant in ways for point in variant.points} == {"bench", "default", "gpu-0.5b", "gpu-8b"}
    assert {variant.task for variant in ways} == {"supervised"}
    assert {variant.entry for variant in ways} == {f"{name}_opponent:train"}
    assert find_spec(f"bench.trainer.{name}_opponent") is not None


def test_a_peer_that_is_not_installed_is_told_and_hinders_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "none")
    chosen = ["--points", "tiny", "--variants", "torchtune_packed,supervised,unsloth", "--others", ""]
    run.main([*chosen, "--repeats", "1", "--results", str(tmp_path)])
    lines = {line.variant: line for line in read_lines(tmp_path / "tiny.csv")}
    reason = "not run: ModuleNotFoundError: No module named 'torchtune'"
    assert (lines["torchtune_packed"].error, lines["torchtune_packed"].rounds) == (reason, 0)
    assert lines["unsloth"].error == reason.replace("torchtune", "unsloth")
    assert (lines["supervised"].error, lines["supervised"].rounds) == ("", 1)
    assert json.loads((tmp_path / "tiny.json").read_text())["rounds"]["torchtune_packed"]["error"] == reason
    told = capsys.readouterr().out
    assert f"torchtune, packed: {reason}" in told
    assert "tiny: torchtune_packed cannot be run here" in told


def test_a_peer_runs_in_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    own = tmp_path / "unsloth" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert environments.python_of("unsloth") == str(own)
    assert environments.python_of("torchtune") == environments.python_of("") == sys.executable
    started: list[list[str]] = []
    monkeypatch.setattr("bench.trainer.contest.subprocess.Popen", lambda command, **_: started.append(command))
    contest.Contestant("tiny", "unsloth", 1, log=sys.stderr)
    assert started[0][0] == str(own)


def test_the_record_has_the_version_of_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    assert "torchtune" not in machine.describe()["versions"]
    facts = tmp_path / "torchtune" / "lib" / "python3.11" / "site-packages" / "torchtune-0.6.1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchtune\nVersion: 0.6.1\n")
    assert machine.describe()["versions"]["torchtune"] == "0.6.1"


@pytest.mark.parametrize("name", PEERS)
def test_the_first_loss_of_a_peer_is_ours(name: str) -> None:
    if environments.python_of(name) == sys.executable:
        pytest.skip(f"{name} is not installed: make bench-peers PEERS={name}")
    command = [environments.python_of(name), "-m", "tests.bench.first_losses", name]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    for point, losses in zip(points(), found, strict=True):
        assert losses == pytest.approx([our_first_loss(point)] * len(losses), rel=1e-5)


def our_first_loss(point: Any) -> float:
    """The product's losses are means of a row each; those of the peers a mean over all tokens that are trained."""
    trainer = ours.set_up(point, "supervised")
    with trainer.scorer.attention():
        losses = trainer.stepper.evaluate(trainer.examples, lambda _done, _total: None).losses
    return float(np.average(losses, weights=[len(row.sequences["base"].scored) for row in point.rows()]))

import json
import math
import os
import signal
from pathlib import Path

import pytest

from bench.trainer import bars, run
from bench.trainer.bars import Bar, Figures, Verdict, judge
from bench.trainer.contest import Contestant, ContestantFailed, Measurement
from bench.trainer.points import POINTS
from bench.trainer.record import Contest, read_lines, write_lines
from bench.trainer.store import save_bars, save_contest, save_figures
from bench.trainer.table import render_lines, render_verdicts
from bench.trainer.variants import VARIANTS

MIB = 2**20


def contest(**seconds: list[float]) -> Contest:
    found = {name: Measurement(name, times, peak_bytes=100 * MIB) for name, times in seconds.items()}
    return Contest(POINTS["tiny"], found)


def figures(point: str = "bench", others: dict[str, list[float]] | None = None, **seconds: list[float]) -> Figures:
    return Figures({point: contest(**seconds)}, others or {})


def verdicts(measured: Figures) -> dict[str, Verdict]:
    return {verdict.bar.text: verdict for verdict in judge(measured)}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    # A round in which the machine was slow for both does not count more than the others.
    slow_round = contest(supervised=[1, 10, 1], nlft_frozen=[1.1, 11, 1.3])
    assert slow_round.ratio("nlft_frozen") == pytest.approx(1.1)


def test_share_of_peak_relates_needed_operations_to_products_of_the_same_round() -> None:
    measured = contest(products=[1, 2], supervised=[4, 8])
    work = {name: measured.work(VARIANTS[name]).total for name in ("products", "supervised")}
    assert measured.share_of_peak("supervised") == pytest.approx(work["supervised"] / 4 / work["products"])


def test_what_did_not_run_has_no_figures() -> None:
    measured = contest(supervised=[1.0])
    assert math.isnan(measured.ratio("trl"))
    assert math.isnan(measured.share_of_peak("supervised"))
    assert measured.peak_bytes("trl") == 0


def test_a_failed_contestant_has_no_figures_but_its_reason() -> None:
    measured = Contest(POINTS["tiny"], {"trl": Measurement("trl", [1.0], error="first\nno such module")})
    assert not measured.seconds("trl")
    assert "TRL SFTTrainer, defaults: could not be measured: no such module" in render_lines(measured.lines())


def test_lines_survive_the_file(tmp_path: Path) -> None:
    lines = contest(products=[1.0], supervised=[4.0, 5.0, 4.5], trl=[9.0, 9.5, 9.25]).lines()
    write_lines(tmp_path / "steps.csv", lines)
    found = read_lines(tmp_path / "steps.csv")
    assert [(line.variant, line.rounds, line.seconds) for line in found] == [
        ("products", 1, 1.0),
        ("supervised", 3, 4.5),
        ("trl", 3, 9.25),
    ]
    assert math.isnan(found[0].ratio)
    assert found[2].ratio == pytest.approx(lines[2].ratio, rel=1e-5)


def test_a_bar_is_passed_missed_or_open() -> None:
    at_least = Bar("speed", 2.0, "at least", lambda _: math.nan, "make it")
    at_most = Bar("cost", 2.0, "at most", lambda _: math.nan)
    assert [Verdict(at_least, value).state for value in (2.0, 1.5, math.nan)] == [
        "pass",
        "MISSED by 25.0%",
        "open: make it",
    ]
    assert [Verdict(at_most, value).state for value in (2.0, 2.5)] == ["pass", "MISSED by 25.0%"]


def test_bars_of_a_made_run() -> None:
    measured = figures(
        supervised=[1.0],
        nlft_frozen=[1.01],
        nlft_online=[2.0],
        nlft_lent=[1.8],
        trl=[3.0],
        trl_packed=[2.5],
        trl_rows=[2.0],
        published_1=[9.0],
    )
    found = verdicts(measured)
    assert found["NLFT frozen / supervised, bench"].state == "pass"
    assert found["NLFT online / supervised, bench"].state == "MISSED by 2.6%"
    assert found["TRL at its best, all rows in a batch / supervised, bench"].value == pytest.approx(2.5)
    assert found["TRL row by row / supervised, bench"].state == "MISSED by 13.0%"
    assert found["published structure, micro-batch 1 / online as the product runs it, bench"].value == pytest.approx(
        5.0
    )
    assert found["the same, GPU, 8 B configuration"].state == f"open: {bars.GPU_COMMAND}"


def test_memory_bars_compare_like_with_like_and_take_the_fastest_settings_of_the_peer() -> None:
    found = {
        "supervised": Measurement("supervised", [1.0], peak_bytes=MIB),
        "supervised_rows": Measurement("supervised_rows", [1.0], peak_bytes=MIB // 2),
        "trl_rows": Measurement("trl_rows", [1.5], peak_bytes=3 * MIB),
        "trl": Measurement("trl", [3.0], peak_bytes=9 * MIB),
        "trl_padded": Measurement("trl_padded", [2.0], peak_bytes=4 * MIB),
    }
    measured = Figures({"bench": Contest(POINTS["tiny"], found)}, {})
    found_bars = verdicts(measured)
    assert found_bars["memory, TRL at its best, all rows in a batch / supervised, bench"].value == 4
    assert found_bars["memory, TRL row by row / supervised row by row, bench"].value == 6


def test_other_figures_are_medians() -> None:
    found = verdicts(figures(others={"start_up": [2.0, 9.0, 2.5], "generation": []}, supervised=[1.0]))
    assert found["seconds from a job's inputs to its first step, as by default: by a trainer that waits"].value == 2.5
    assert found["generation, batched / one by one"].state.startswith("open")
    assert "MISSED" not in render_verdicts(found.values())


def test_results_of_several_runs_are_judged_together(tmp_path: Path) -> None:
    facts = {"date": "2026-01-01", "commit": "c", "machine": "m", "gpu": None}
    save_contest(tmp_path, contest(supervised=[1.0, 3.0], nlft_frozen=[1.0, 3.0]), facts)
    save_figures(tmp_path, "generation", {"generation": [9.0, 8.5, 10.0]}, {**facts, "machine": "another"})
    figures = save_bars(tmp_path)
    assert figures.contests["tiny"].ratio("nlft_frozen") == 1
    assert figures.other("generation") == 9.0
    kept = json.loads((tmp_path / "bars.json").read_text())
    assert kept["from"]["generation"]["machine"] == "another"
    assert {bar["state"] for bar in kept["bars"] if bar["value"] is not None} == {"pass"}
    assert save_bars(tmp_path).others == {"generation": [9.0, 8.5, 10.0]}


def test_a_small_contest_is_run_recorded_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--points", "tiny", "--variants", "supervised,published_all", "--others", ""]
    run.main([*chosen, "--repeats", "2", "--results", str(tmp_path)])
    line, once = read_lines(tmp_path / "tiny.csv")
    assert (line.point, line.variant, line.rounds, line.error) == ("tiny", "supervised", 2, "")
    assert (once.variant, once.rounds, once.error) == ("published_all", 1, "")
    assert line.seconds > 0
    assert line.ratio == 1
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert [len(record["rounds"][name]["seconds"]) for name in ("supervised", "published_all")] == [2, 1]
    told = capsys.readouterr().out
    assert "ours, supervised" in told
    assert told.index("published_all is done") < told.index("supervised is ready")


def test_a_contestant_that_is_killed_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as log, Contestant("tiny", "supervised", 1, log) as contestant:
        contestant.hear()
        os.kill(contestant._process.pid, signal.SIGKILL)
        with pytest.raises(ContestantFailed, match=r"^ended by SIGKILL"):
            contestant.step()

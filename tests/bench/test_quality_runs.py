import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.quality import experiment, run, tables, word_problems
from bench.quality.arms import ARMS, BASE, Arm
from bench.quality.comparisons import SEEDS, TABLES, VALIDATION_SEEDS
from bench.quality.problems import TARGET, draw
from bench.quality.rollouts import Rollout
from bench.quality.setting import RESULTS, WORD_PROBLEMS
from bench.quality.store import Record, Store
from bench.quality.study import Study
from examples.word_problems.generate import judge
from tests.fixtures.tiny_models import reference_to
from worker.training.errors import DatasetError, RowProblem
from worker.training.spec import BaseModelRef, LoraSettings

NO_ROWS = ValueError("0 rows cannot be trained")
BASE_MODEL = BaseModelRef(name="made", path="/nowhere", digest="0" * 64)


def record(arm: Arm, seed: int, answers: str = "0110", base: BaseModelRef = BASE_MODEL) -> Record:
    return Record(
        table="main",
        arm=arm.name,
        seed=seed,
        fingerprint=arm.fingerprint(base.digest),
        base=base.digest[:12],
        code="c",
        rows=50,
        right_rows=20,
        steps=60,
        accuracy=answers.count("1") / len(answers),
        answers=answers,
        by_family={},
        unfinished=0,
        loss={},
        train_cpu_seconds=1.0,
        answer_cpu_seconds=1.0,
        settings=arm.settings(),
    )


class Runs:
    """Stands in for ``run``: remembers what was asked of it, and can fail."""

    def __init__(self, failing: str, error: Exception) -> None:
        self.made: list[tuple[str, int]] = []
        self._failing = failing
        self._error = error

    def __call__(
        self, _study: Study, arm: Arm, base: BaseModelRef, seed: int
    ) -> tuple[Record, list[Any], dict[str, Any]]:
        if arm.name == self._failing:
            raise self._error
        self.made.append((arm.name, seed))
        return record(arm, seed, base=base), [], {}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    setting = replace(WORD_PROBLEMS, work=tmp_path / "work", results=tmp_path / "results")
    return replace(word_problems.STUDY, setting=setting)


@pytest.fixture
def store(study: Study) -> Store:
    return Store(study.setting.results, study.setting.work)


@pytest.fixture
def work_off(study: Study, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    def work(
        *names: str, failing: str = "", error: Exception = NO_ROWS, base: BaseModelRef = BASE_MODEL
    ) -> list[tuple[str, int]]:
        runs = Runs(failing, error)
        monkeypatch.setattr(run, "run", runs)
        run.work_off(study, run.order(ARMS, [names], (0, 1)), base)
        return runs.made

    return work


def test_the_queue_goes_seed_by_seed_and_measures_the_base_once() -> None:
    found = [(arm.name, seed) for arm, seed in run.order(ARMS, [(BASE,), ("nlft", "nlft_25")], (3, 4))]
    assert found == [(BASE, 0), ("nlft", 3), ("nlft_25", 3), ("nlft", 4), ("nlft_25", 4)]


def test_a_restart_makes_only_what_is_missing(work_off: Callable[..., list[tuple[str, int]]], store: Store) -> None:
    store.add(record(ARMS["nlft"], 1), [], {})
    assert work_off("nlft") == [("nlft", 0)]
    assert work_off("nlft") == []
    assert [(kept.arm, kept.seed) for kept in store.records()] == [("nlft", 1), ("nlft", 0)]


def test_another_base_model_makes_runs_anew(work_off: Callable[..., list[tuple[str, int]]]) -> None:
    work_off("nlft")
    assert work_off("nlft", base=BASE_MODEL.model_copy(update={"digest": "1" * 64})) == [("nlft", 0), ("nlft", 1)]


@pytest.mark.parametrize("error", [NO_ROWS, DatasetError((RowProblem(3, "", "", "too long"),), 1)])
def test_a_run_that_cannot_be_made_stops_no_other(
    work_off: Callable[..., list[tuple[str, int]]], error: Exception
) -> None:
    assert work_off("supervised_right", "nlft", failing="supervised_right", error=error) == [("nlft", 0), ("nlft", 1)]


def test_a_run_that_another_process_makes_is_left_to_it(
    work_off: Callable[..., list[tuple[str, int]]], store: Store
) -> None:
    with store.claim("nlft", 0) as is_mine:
        assert is_mine
        assert work_off("nlft") == [("nlft", 1)]
    assert work_off("nlft") == [("nlft", 0)]


def test_a_table_pairs_arms_on_the_seeds_they_share_and_the_base_with_all(store: Store) -> None:
    for arm, seed, answers in (
        (BASE, 0, "0000"),
        ("nlft", 0, "1111"),
        ("nlft", 1, "1100"),
        ("supervised_rollouts", 1, "1000"),
    ):
        store.add(record(ARMS[arm], seed, answers), [], {})
    (part,) = tables.parts_of(TABLES["main"], tables.current(store.records()))
    lines = {line.arm: line for line in part}
    assert list(lines) == [BASE, "supervised_rollouts", "nlft"]
    base, supervised = lines[BASE].comparison, lines["supervised_rollouts"].comparison
    assert base is not None
    assert supervised is not None
    assert (base.difference, base.seeds) == (-0.75, 2)
    assert (supervised.difference, supervised.seeds) == (-0.25, 1)
    assert lines["nlft"].comparison is None
    assert "| `nlft` | 50 | 2 | **75.0** ± 25.0 (100.0 50.0) |" in tables.to_markdown(TABLES["main"], [part])


def test_runs_on_several_base_models_are_pooled_in_pairs(store: Store) -> None:
    other = BASE_MODEL.model_copy(update={"digest": "1" * 64})
    for arm, seed, base, answers in (
        ("nlft", 0, BASE_MODEL, "1100"),
        ("nlft", 0, other, "1111"),
        ("supervised_right", 0, BASE_MODEL, "1000"),
        ("supervised_right", 0, other, "1110"),
        ("supervised_right", 1, other, "0000"),
        ("nlft_right", 0, other, "0000"),
    ):
        store.add(record(ARMS[arm], seed, answers, base=base), [], {})
    pooled = tables.pool(TABLES["main"], store.records())
    assert {arm: (found.difference, found.seeds) for arm, found in pooled.items()} == {"supervised_right": (-0.25, 2)}


def test_tables_leave_out_old_settings(store: Store) -> None:
    store.add(record(Arm("nlft", "nlft", hyperparameters={"nll_weight": 3.0}), 0), [], {})
    store.add(record(ARMS["nlft_online"], 0), [], {})
    assert [kept.arm for kept in tables.current(store.records())] == ["nlft_online"]


def test_runs_on_another_base_model_stand_apart_the_latest_first(store: Store, tmp_path: Path) -> None:
    other = BASE_MODEL.model_copy(update={"digest": "1" * 64})
    for arm, seed, base in (
        ("nlft", 0, other),
        ("nlft", 0, BASE_MODEL),
        ("nlft_online", 1, other),
        (BASE, 0, BASE_MODEL),
    ):
        store.add(record(ARMS[arm], seed, base=base), [], {})
    records = tables.current(store.records())
    first, second = tables.parts_of(replace(TABLES["ablations"], arms=(BASE, "nlft", "nlft_online")), records)
    assert [(line.base, line.arm) for line in first] == [(BASE_MODEL.digest[:12], arm) for arm in (BASE, "nlft")]
    assert [(line.base, line.arm) for line in second] == [("1" * 12, arm) for arm in ("nlft", "nlft_online")]
    assert second[1].comparison is None
    told = tables.publish([TABLES["ablations"]], records, tmp_path)
    assert told.count("Base model ") == 1  # of the other only one arm was trained
    with (tmp_path / "ablations.csv").open(newline="", encoding="utf-8") as stream:
        assert [(row["base"], row["arm"]) for row in csv.DictReader(stream)] == [
            ("1" * 12, "nlft"),
            ("1" * 12, "nlft_online"),
        ]


@pytest.mark.parametrize("name", ["nlft", "supervised_right"])
def test_a_run_is_the_same_alone_and_after_another(
    name: str, study: Study, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = draw(1, 4, TARGET)
    responses = [problems[0].solution, *("It is 1.\n#### 1" for _ in problems[1:])]
    judged = [Rollout(p, r, judge(r, p.solution)) for p, r in zip(problems, responses, strict=True)]
    small = replace(study, questions=lambda _seed: problems, exam=lambda _seed: problems)
    monkeypatch.setattr(experiment, "draw_rollouts", lambda *_, **__: judged)
    base = reference_to(tiny_model())
    arm = Arm(name, name.partition("_")[0], ARMS[name].rows, adapter=LoraSettings(r=2), steps=2)
    alone, after = (experiment.run(small, arm, base, 0) for _ in range(2))
    assert alone[1] == after[1]
    assert alone[2] == after[2]
    assert (alone[0].rows, alone[0].right_rows, alone[0].steps) == ((4, 1, 2) if name == "nlft" else (1, 1, 2))
    assert len(alone[0].answers) == 4


def test_settings_are_chosen_on_other_problems_than_they_are_tested_on() -> None:
    tested = {problem.question for seed in SEEDS for problem in word_problems.measured_on(seed)}
    chosen_by = {problem.question for seed in VALIDATION_SEEDS for problem in word_problems.measured_on(seed)}
    assert len(tested) >= 300
    assert chosen_by
    assert not tested & chosen_by


def test_tables_do_not_mix_what_was_chosen_by_with_what_was_tested() -> None:
    records = [record(ARMS[name], seed) for name in ("nlft", "nlft_refused_2") for seed in (0, 1, 5)]
    seeds = {name: tables.parts_of(TABLES[name], records)[0][0].accuracies.keys() for name in ("ablations", "choice")}
    assert seeds == {"ablations": {0, 1}, "choice": {5}}


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.csv")), ids=lambda file: file.stem)
def test_committed_results_are_of_the_arms_as_they_are(file: Path) -> None:
    kept = tables.current(Store(RESULTS, RESULTS).records())
    with file.open(newline="", encoding="utf-8") as stream:
        shown = [(row["base"], row["arm"]) for row in csv.DictReader(stream)]
    known = [(line.base, line.arm) for part in tables.parts_of(TABLES[file.stem], kept) for line in part]
    assert [one for one in known if one in shown] == shown

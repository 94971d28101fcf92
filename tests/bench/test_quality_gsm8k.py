import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality import gsm8k
from bench.quality.answering import load_for_answers, sample
from bench.quality.arms import ARMS, BASE, BASE_SHOWN, Arm
from bench.quality.gsm8k import COMPARED, SIZES, main, make_arms, make_steps, make_study, make_tables, read_problems
from bench.quality.plan import plan
from bench.quality.rollouts import Rollout
from bench.quality.rows import BUILDERS
from bench.quality.setting import Setting, answers, runtime
from bench.quality.store import Record, Store
from examples.word_problems.generate import INSTRUCTION, judge
from tests.fixtures.tiny_models import reference_to
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts

CONDITIONS = {"problems": 8}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of eight training and nine test problems as the published files hold them."""
    for name, count, start in (("train", 8, 2), ("test", 9, 50)):
        rows = [
            {
                "question": f"Ada has {n} pens and gets 2, then 3. How many?",
                "answer": f"She has {n}+2=<<{n}+2={n + 2}>>{n + 2}.\nIn all {n + 2}+3=<<{n + 2}+3={n + 5}>>{n + 5}.\n"
                f"#### {n + 5}",
            }
            for n in range(start, start + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def setting(folder: Path, *, longest: int = 8, keeps_unfinished: bool = False) -> Setting:
    settled = runtime("float32")
    return Setting(
        answers(longest=longest, at_a_time=4), settled, folder / "work", folder / "results", keeps_unfinished
    )


def test_problems_are_read_without_marks_and_say_how_to_answer(data: Path) -> None:
    first = read_problems(data / "train.jsonl")[0]
    assert first.question == f"Ada has 2 pens and gets 2, then 3. How many?\n\n{INSTRUCTION}"
    assert first.solution == "She has 2+2=4.\nIn all 4+3=7.\n#### 7"
    assert first.family == "2 steps"
    assert judge(first.solution, first.solution) is None
    assert judge("2 + 2 = 5 #### 5", first.solution) is not None


def test_the_questions_of_a_seed_are_its_own_and_the_exam_is_that_of_all(data: Path) -> None:
    study = make_study(data, setting(data), problems=3)
    assert study.questions(0) == study.questions(0) != study.questions(1)
    assert set(study.questions(0)) == set(study.questions(1)) == set(read_problems(data / "train.jsonl"))
    assert study.exam(0) == study.exam(1) == read_problems(data / "test.jsonl")[:3]


def test_all_arms_of_a_size_make_the_same_steps_and_can_take_their_rows() -> None:
    arms = make_arms(SIZES, CONDITIONS)
    assert len(arms) == len(SIZES) * len(COMPARED) + 2
    for questions in SIZES:
        own = [arm for arm in arms.values() if arm.method and arm.questions == questions]
        assert {arm.steps for arm in own} == {make_steps(questions)}
        for rows in (1, questions // 2, questions, 2 * questions):
            chosen = plan(rows, steps=make_steps(questions), batch_size=4)
            assert -(-chosen.size // 4) * chosen.n_epochs == make_steps(questions)


@pytest.mark.parametrize(
    "arm", [arm for arm in make_arms((25,), CONDITIONS).values() if arm.method], ids=lambda a: a.name
)
@pytest.mark.parametrize(("parameters", "rate"), [(135_000_000, 1e-3), (8_000_000_000, 1e-4)])
def test_arms_take_the_products_rate_for_the_model_but_the_papers_own(arm: Arm, parameters: int, rate: float) -> None:
    requested = {**arm.settings()["hyperparameters"], "n_epochs": 4}
    chosen = METHODS[arm.method].hyperparameters_type.resolve(requested, RunFacts(25, parameters, 8192))
    assert chosen.learning_rate == (5e-5 if arm.name == "nlft_paper_25" else rate)


def test_conditions_are_part_of_the_fingerprint_and_those_of_the_word_problems_are_none() -> None:
    one, other = (make_arms((25,), {"problems": count})["nlft_25"] for count in (8, 9))
    assert one.fingerprint("a") != other.fingerprint("a")
    assert replace(ARMS["nlft"], conditions={}).fingerprint("a") == ARMS["nlft"].fingerprint("a")
    assert "conditions" not in ARMS["nlft"].settings()


def test_tables_name_arms_that_exist() -> None:
    arms = make_arms(SIZES, CONDITIONS)
    assert {name for table in make_tables(SIZES, (0, 1)).values() for name in (*table.arms, table.against)} == set(arms)


@pytest.mark.parametrize("keeps_unfinished", [False, True])
def test_an_answer_that_was_cut_off_is_kept_only_where_the_setting_says_so(
    keeps_unfinished: bool, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    own = setting(tmp_path, longest=1, keeps_unfinished=keeps_unfinished)
    loaded = load_for_answers(reference_to(tiny_model()), own)
    drawn = sample(loaded, own, [f"{n}?" for n in range(8)], temperature=0.7, seed=0)
    assert any(drawn) is keeps_unfinished


def test_rollouts_that_say_nothing_are_no_rows_and_wrong_ones_without_judgment_are_marked(data: Path) -> None:
    problem = read_problems(data / "train.jsonl")[0]
    judged = [Rollout(problem, "", "It reaches no result."), Rollout(problem, "#### 8", "")]
    (row,) = BUILDERS["rollouts"](judged)
    assert (row["response"], row["correct"]) == ("#### 8", False)
    assert "judgment" not in row
    assert len(BUILDERS["references_and_wrong"](judged)) == 2


def run(data: Path, model: Path) -> list[Record]:
    chosen = ["--arms", "supervised_references,nlft_references", "--sizes", "8", "--seeds", "1"]
    small = [
        "--problems",
        "8",
        "--steps",
        "2",
        "--longest",
        "4",
        "--batch",
        "8",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    main([str(data), str(model), *chosen, *small])
    return Store(data / "results" / "gsm8k" / model.name, data / "unused").records()


def test_one_command_measures_trains_and_writes_tables_and_finishes_only_once(
    data: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gsm8k, "WORK", data / "work")
    monkeypatch.setattr(gsm8k, "RESULTS", data / "results")
    records = run(data, tiny_model())
    assert [record.arm for record in records] == [BASE, BASE_SHOWN, "supervised_references_8", "nlft_references_8"]
    assert [(record.rows, record.steps) for record in records] == [(0, 0), (0, 0), (8, 2), (8, 2)]
    assert {len(record.answers) for record in records} == {8}
    assert [record.guidance is None for record in records] == [True, True, True, False]
    (tables,) = data.glob("results/gsm8k/*/tables.md")
    assert "GSM8K, 8 questions" in tables.read_text()
    assert "Guidance check: " in tables.read_text()
    assert tables.with_name("gsm8k_8.csv").is_file()
    capsys.readouterr()
    assert run(data, tiny_model()) == records
    assert "seed 0 ..." not in capsys.readouterr().out


def test_an_arm_that_does_not_exist_is_refused(data: Path) -> None:
    with pytest.raises(SystemExit, match="no such arm: dpo"):
        main([str(data), str(data), "--arms", "dpo"])

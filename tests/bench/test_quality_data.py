from random import Random

import pytest

from bench.quality.arms import ARMS, Arm
from bench.quality.comparisons import QUEUE, TABLES
from bench.quality.corruption import corrupt
from bench.quality.plan import plan, repeat
from bench.quality.problems import (
    SOURCE,
    TARGET,
    draw,
    exam_problems,
    training_problems,
    validation_problems,
)
from bench.quality.rollouts import Rollout
from bench.quality.rows import BUILDERS
from bench.quality.setting import bare_result
from bench.quality.warm_up import WarmUp, target_problems, warm_up_rows
from examples.word_problems.families import FAMILIES, Problem
from examples.word_problems.generate import judge
from worker.training.methods import METHODS
from worker.training.methods.auto import RunFacts


def numbers(problems: list[Problem]) -> set[tuple[str, ...]]:
    return {(p.family, *(word for word in p.question.replace(".", " ").split() if word.isdigit())) for p in problems}


def judged() -> list[Rollout]:
    right, wrong = draw(1, 2, TARGET)
    return [
        Rollout(right, right.solution, judge(right.solution, right.solution)),
        Rollout(wrong, "The answer is 0.\n#### 0", judge("The answer is 0.\n#### 0", wrong.solution)),
    ]


def test_no_split_shares_numbers_with_a_held_out_one() -> None:
    warm_up = target_problems(WarmUp())
    held_out = [exam_problems(), validation_problems(), warm_up]
    assert [len(problems) for problems in held_out[:2]] == [300, 96]
    assert not numbers(held_out[0]) & numbers(held_out[1])
    for seed in range(5):
        trained = numbers(training_problems(seed, warm_up))
        assert not any(trained & numbers(problems) for problems in held_out)


def test_every_prefix_of_a_split_has_the_same_mix_of_families() -> None:
    problems = training_problems(0, [])
    for count in (25, 50, 100, 200):
        for family, weight in TARGET.items():
            found = sum(problem.family == family for problem in problems[:count])
            assert abs(found - count * weight / sum(TARGET.values())) <= 1


def test_a_family_that_has_run_dry_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="sharing has no numbers left"):
        draw(0, 106, {"sharing": 1})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_corrupted_solution_is_wrong_and_keeps_its_form(family: str) -> None:
    for problem in draw(3, 20, {family: 1}):
        wrong, judgment = corrupt(problem.solution, Random(problem.question))
        assert judge(wrong, problem.solution) == judgment
        assert wrong.count("=") == problem.solution.count("=")
        assert wrong != problem.solution


def test_guided_warm_up_rows_are_of_source_families_and_show_what_nlft_shows() -> None:
    recipe = WarmUp()
    rows = warm_up_rows(recipe)
    assert len(rows) % 8 == 0
    told = [row["messages"][-1]["content"] for row in rows]
    shown = [text for text in told if "Consult this standard answer:" in text]
    weak = [text for text in told if "Answer with this weakness:" in text]
    assert (len(shown), len(weak)) == (recipe.reference_shown, recipe.judgment_shown)
    source = {problem.question for problem in draw(103, 488, SOURCE, avoid=[*exam_problems(), *validation_problems()])}
    assert all(text.partition("\n\n")[0] in source for text in [*shown, *weak])


def guided() -> list[Rollout]:
    """Return answers drawn with guidance shown: to a solved question, and to the other a sound and an unsound one."""
    right, wrong = (one.problem for one in judged())
    parroted = f"That leaves 1 + 1 = 3.\n{bare_result(wrong.solution)}"
    return [
        Rollout(problem, response, judge(response, problem.solution), "reference")
        for problem, response in ((right, right.solution), (wrong, wrong.solution), (wrong, parroted))
    ]


def test_row_builders() -> None:
    rows = {name: build([*judged(), *guided()]) for name, build in BUILDERS.items()}
    assert {name: len(found) for name, found in rows.items()} == {
        "rollouts": 2,
        "right_rollouts": 1,
        "balanced_rollouts": 2,
        "rationalized": 3,
        "right_rationalized": 2,
        "references": 2,
        "references_and_wrong": 3,
        "right_or_references": 2,
        "references_and_rationalized": 2,
        "rollouts_without_judgments": 2,
        "rollouts_final_answer": 2,
        "right_rollouts_final_answer": 1,
        "rationalized_final_answer": 3,
        "right_rationalized_final_answer": 2,
        "rollouts_final_answer_without_judgments": 2,
    }
    assert rows["right_rationalized"][1]["response"] == judged()[1].problem.solution
    assert "judgment" not in rows["right_rationalized"][1]
    assert rows["right_or_references"] == [*rows["right_rollouts"], rows["references"][1]]
    assert all(row["response"] == row["reference"] for row in rows["references"])
    assert [row.get("correct") for row in rows["rollouts_without_judgments"]] == [True, False]
    short = rows["rollouts_final_answer"][1]
    right = judged()[1].problem.solution.rpartition(" ")[2]
    assert short["reference"] == f"#### {right}"
    assert short["judgment"] == f"The answer concludes 0, but the right result is {right}."


def test_without_a_right_rollout_there_are_no_rows_and_a_plain_error() -> None:
    assert BUILDERS["right_rollouts"](judged()[1:]) == []
    with pytest.raises(ValueError, match="0 rows cannot be trained"):
        plan(0, steps=60, batch_size=4)


@pytest.mark.parametrize("rows", range(1, 241))
def test_every_number_of_rows_makes_the_same_number_of_steps(rows: int) -> None:
    chosen = plan(rows, steps=60, batch_size=4)
    assert -(-chosen.size // 4) * chosen.n_epochs == 60
    repeated = repeat(range(rows), chosen.size, seed=1)
    counts = [repeated.count(row) for row in range(rows)]
    assert len(repeated) == chosen.size
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1


def test_arms_of_equal_size_repeat_the_same_rows() -> None:
    assert repeat(range(50), 60, seed=3) == repeat(range(50), 60, seed=3)
    assert repeat(range(50), 60, seed=3) != repeat(range(50), 60, seed=4)


def test_tables_and_queue_name_arms_that_exist() -> None:
    named = {name for table in TABLES.values() for name in (*table.arms, table.against)}
    assert named | {name for group in QUEUE for name in group} <= set(ARMS)
    assert {arm.rows for arm in ARMS.values()} <= set(BUILDERS)


def test_a_changed_setting_or_base_changes_the_fingerprint() -> None:
    prints = {arm.fingerprint("a") for arm in ARMS.values()}
    assert len(prints) == len(ARMS)
    assert ARMS["nlft"].fingerprint("a") != ARMS["nlft"].fingerprint("b")


@pytest.mark.parametrize("arm", [arm for arm in ARMS.values() if arm.method], ids=lambda arm: arm.name)
def test_every_arm_has_settings_that_its_method_takes(arm: Arm) -> None:
    requested = {**arm.settings()["hyperparameters"], "n_epochs": 4}
    chosen = METHODS[arm.method].hyperparameters_type.resolve(requested, RunFacts(50, 135_000_000, 8192))
    assert chosen.model_dump().items() >= requested.items()

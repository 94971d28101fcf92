from dataclasses import replace

import msgspec
import pytest

from worker.training.engine.progress import Progress, RowLoss
from worker.training.engine.step import StepResult

RESULT = StepResult(
    loss=1.0, accuracy=0.5, grad_norm=2.0, tokens=100, metrics={"extra": 3.0}, losses=[0.5, 1.5], weight_counts=[3, 1]
)


def run_epoch(progress: Progress, rows: int = 10, batch_size: int = 4) -> list[int]:
    seen: list[int] = []
    epoch = progress.epoch
    while progress.epoch == epoch:
        batch = progress.next_batch(rows, batch_size, seed=3)
        seen += batch
        progress.advance(RESULT, examples=len(batch), rows=rows, learning_rate=0.1, seconds=1.0)
    return seen


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    progress = Progress()
    first, second = run_epoch(progress), run_epoch(progress)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert (progress.step, progress.epoch, progress.position) == (6, 2, 0)
    assert progress.trained_tokens == 600
    assert [record.epoch for record in progress.records] == pytest.approx([0.4, 0.8, 1.0, 1.4, 1.8, 2.0])


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert run_epoch(Progress()) == run_epoch(Progress())
    assert Progress().next_batch(10, 10, seed=3) != Progress().next_batch(10, 10, seed=4)


@pytest.mark.parametrize(("patience", "stops_after"), [(1, 3), (2, 4), (0, None)])
def test_patience(patience: int, stops_after: int | None) -> None:
    progress, stopped = Progress(), None
    for epoch, loss in enumerate([3.0, 2.0, 2.0, 2.5, 2.4], start=1):
        progress.note_validation(loss, patience)
        stopped = stopped or (epoch if progress.stopped_early else None)
    assert stopped == stops_after


def test_an_improvement_renews_the_patience() -> None:
    progress = Progress()
    for loss in (3.0, 3.5, 2.0, 2.5):
        progress.note_validation(loss, 2)
    assert not progress.stopped_early


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    progress = Progress()
    progress.note_validation(float("nan"), 1)
    assert progress.stopped_early


def test_summary_holds_the_last_step_and_the_last_validation() -> None:
    progress = Progress()
    assert progress.summary() == {}
    run_epoch(progress)
    progress.records[1].valid_loss, progress.records[1].valid_mean_token_accuracy = 0.7, 0.8
    assert progress.summary() == {
        "train_loss": 1.0,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": 0.7,
        "valid_mean_token_accuracy": 0.8,
    }


def test_losses_of_rows_and_weights_of_tokens_add_up() -> None:
    progress = Progress()
    progress.note_tokens_and_rows(RESULT, [4, 2])
    progress.note_tokens_and_rows(replace(RESULT, losses=[0.25], weight_counts=[0, 2]), [2])
    assert progress.row_losses == {4: RowLoss(0.5, 0.5, 0.5, 1), 2: RowLoss(1.5, 0.25, 1.75, 2)}
    assert progress.weight_counts == [3, 3]
    assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress

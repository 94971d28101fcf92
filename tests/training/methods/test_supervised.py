import math

import pytest
import torch

from tests.training.builders import question, scores
from worker.training.data.examples import ChatExample, CompletionExample, Message, NLFTExample
from worker.training.methods.base import find_problems
from worker.training.methods.supervised import Supervised, SupervisedHyperparameters
from worker.training.types import ScoredBatch

METHOD, CHOSEN = Supervised(), SupervisedHyperparameters()


def test_loss_is_the_mean_over_each_examples_tokens() -> None:
    losses = METHOD.loss(ScoredBatch({"completion": scores([0.5, 0.25], [0.1])}, {}), CHOSEN).losses
    torch.testing.assert_close(losses, torch.tensor([-(math.log(0.5) + math.log(0.25)) / 2, -math.log(0.1)]))


def test_a_row_without_response_is_a_problem() -> None:
    assert [p.code for p in find_problems(METHOD, NLFTExample(question("?"), reference="2"), 3)] == ["missing_response"]


@pytest.mark.parametrize(
    "row",
    [
        NLFTExample(question("?"), response="2"),
        NLFTExample(question("?"), response="3", judgment="wrong"),
        ChatExample([*question("?"), Message("assistant", "2")]),
        CompletionExample("?", "2"),
    ],
)
def test_every_format_is_accepted(row: NLFTExample | ChatExample | CompletionExample) -> None:
    assert find_problems(METHOD, row, 1) == ()

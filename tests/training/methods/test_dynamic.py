import torch

from tests.training.builders import scores
from worker.training.methods.dynamic import Dynamic
from worker.training.methods.supervised import SupervisedHyperparameters
from worker.training.types import ScoredBatch, TokenScores

METHOD, CHOSEN = Dynamic(), SupervisedHyperparameters()


def test_every_token_is_weighed_by_its_own_probability() -> None:
    found = METHOD.loss(ScoredBatch({"completion": scores([0.5, 0.25], [0.1])}, {}), CHOSEN)
    p = torch.tensor([0.5, 0.25, 0.1])
    expected = -torch.stack([(p[:2] * p[:2].log()).mean(), p[2] * p[2].log()])
    torch.testing.assert_close(found.losses, expected)
    assert found.token_weights is not None
    torch.testing.assert_close(found.token_weights, p)


def test_the_weight_carries_no_gradient() -> None:
    logprobs = torch.tensor([-0.5]).requires_grad_()
    tokens = TokenScores(logprobs, torch.tensor([0]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(
        METHOD.loss(ScoredBatch({"completion": tokens}, {}), CHOSEN).losses.sum(), logprobs
    )
    torch.testing.assert_close(gradient, -torch.tensor([-0.5]).exp())

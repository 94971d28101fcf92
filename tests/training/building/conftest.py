"""A base model that answers with a few digits, and endpoints that answer as told."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.fixtures.tiny_models import TinyModel, build_tiny_model, build_tokenizer
from worker.training.events import CompletionAnswer, CompletionRequest

_LIKELY = 30.0


def build_speaker(folder: Path, tokens: Iterable[str]) -> Path:
    """Save a random model that draws from ``tokens`` alone, about evenly, and return its folder."""
    build_tiny_model(folder, "phi")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
        model.lm_head.bias.zero_()
        model.lm_head.bias[build_tokenizer().convert_tokens_to_ids(list(tokens))] = _LIKELY
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that answers with digits from 1 to 3."""
    return build_speaker(tmp_path_factory.mktemp("counter") / "counter", ["1", "2", "3", "<|im_end|>"])


@pytest.fixture(scope="session")
def mute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that ends every answer at once."""
    return build_speaker(tmp_path_factory.mktemp("mute") / "mute", ["<|im_end|>"])


@pytest.fixture
def babbler(tiny_model: TinyModel) -> Path:
    """Return a model that rarely comes to an end."""
    return tiny_model("llama")


class Endpoint:
    """Answers what ``reply`` says: a text, or a code of failure in angle brackets. Remembers what it was asked."""

    def __init__(self, reply: Callable[[int], str]) -> None:
        self.asked: list[CompletionRequest] = []
        self._reply = reply

    def complete(
        self, requests: Sequence[CompletionRequest], on_done: Callable[[int, int], None]
    ) -> list[CompletionAnswer]:
        answers = []
        for number, request in enumerate(requests):
            text = self._reply(len(self.asked))
            self.asked.append(request)
            is_error = text.startswith("<") and text.endswith(">")
            answers.append(
                CompletionAnswer(request.id, code=text[1:-1], error="no answer")
                if is_error
                else CompletionAnswer(request.id, text=text)
            )
            on_done(number + 1, len(requests))
        return answers

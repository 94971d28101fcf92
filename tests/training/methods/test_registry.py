from typing import ClassVar

import pytest

from worker.training.methods import METHODS, build_registry
from worker.training.methods.supervised import Supervised


class Renamed(Supervised):
    """Supervised under another name (https://arxiv.org/abs/2203.02155)."""

    name: ClassVar[str] = "Renamed"


class Unsourced(Supervised):
    """Supervised without its paper."""

    name: ClassVar[str] = "unsourced"


def test_methods_are_found_by_their_own_names() -> None:
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in METHODS}


@pytest.mark.parametrize("methods", [(Supervised(), Supervised()), (Renamed(),), (Unsourced(),)])
def test_a_malformed_registry_is_refused_at_import(methods: tuple[Supervised, ...]) -> None:
    with pytest.raises(TypeError):
        build_registry(*methods)

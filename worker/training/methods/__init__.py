"""The registry of training methods. To add one: import its class and add it to the line of ``METHODS``."""

from collections.abc import Mapping
from types import MappingProxyType

from worker.training.methods.base import Method
from worker.training.methods.cut import CUT
from worker.training.methods.dynamic import Dynamic
from worker.training.methods.nlft import NLFT
from worker.training.methods.supervised import Supervised


def build_registry(*methods: Method) -> Mapping[str, Method]:
    """Return ``methods`` by name.

    Raises:
        TypeError: Names repeat or are no lower-case identifiers, or a docstring does not link the paper.
    """
    by_name = {method.name: method for method in methods}
    if len(by_name) != len(methods):
        msg = f"two methods share a name: {[method.name for method in methods]}"
        raise TypeError(msg)
    for name, method in by_name.items():
        if not (name.isidentifier() and name == name.lower()):
            msg = f"{name!r} is no lower-case identifier"
            raise TypeError(msg)
        if not method.paper.startswith("https://") or method.paper not in (type(method).__doc__ or ""):
            msg = f"method {name} must link its paper in `paper` and in its docstring"
            raise TypeError(msg)
    return MappingProxyType(by_name)


METHODS: Mapping[str, Method] = build_registry(Supervised(), Dynamic(), CUT(), NLFT())

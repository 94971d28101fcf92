"""Regular expressions of users, run by RE2: the time they take grows with the text and with nothing else.

RE2 (https://github.com/google/re2) is an automaton and never backtracks, so that no pattern can hang a process.
What needs backtracking, look-around and references to groups, is refused.
"""

from collections import deque
from functools import lru_cache
from typing import Any

import re2

_MEMORY_BYTES = 8 << 20


class PatternError(ValueError):
    """A regular expression that is not written well, or needs what RE2 does not have."""


def check_pattern(pattern: str) -> str:
    """Return ``pattern``.

    Raises:
        PatternError: It cannot be run; the message says which part is at fault.
    """
    _compile(pattern)
    return pattern


def last_match(pattern: str, text: str) -> str | None:
    """Return the last match of ``pattern`` in ``text``, its first group if it has one; None without a match.

    Each match may look at all of the text, so that time may grow with its square: callers bound it.
    """
    last = deque(_compile(pattern).finditer(text), maxlen=1)
    if not last:
        return None
    found = last[0]
    return str((found.group(1) if found.re.groups else found.group()) or "")


@lru_cache(maxsize=64)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(
            f"not a regular expression of RE2 (https://github.com/google/re2/wiki/Syntax): {text}"
        ) from None

"""The search for rows that occur more than once in a file."""

from collections.abc import Sequence


class TwinSearch:
    """Remembers the line of each key, which tells rows apart, for the first ``most`` different keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._first_lines: dict[int, int] = {}

    def find(self, key: int, line: int) -> int | None:
        """Return the first line that had ``key``; None, and remember ``line``, when there was none."""
        first = self._first_lines.get(key)
        if first is None and len(self._first_lines) < self._most:
            self._first_lines[key] = line
        return first

    def find_all(self, keys: Sequence[int], line: int) -> list[tuple[int, int]]:
        """Return lines whose key is not new, each with the first that had it; ``keys`` are those from ``line`` on."""
        lines = list(range(line, line + len(keys)))
        if len(self._first_lines) + len(keys) > self._most:
            firsts = [self.find(key, number) or number for key, number in zip(keys, lines, strict=True)]
        else:  # the same without a step of the interpreter for each row
            firsts = list(map(self._first_lines.setdefault, keys, lines))
        if firsts == lines:
            return []
        return [(number, first) for number, first in zip(lines, firsts, strict=True) if first != number]

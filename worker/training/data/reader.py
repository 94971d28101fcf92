"""Reads JSON-lines datasets: bytes in, typed rows out, and a report of every bad line. Loads neither torch nor numpy.

A plainly sound row takes the fast path: a typed decode, byte counts that rule out duplicate keys, rules about meaning.
Anything else goes to ``diagnosis``, which has the last word. Who needs the report alone has plain rows proved together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import msgspec

from worker.training.data.diagnosis import diagnose, find_format
from worker.training.data.examples import (
    EXAMPLE_TYPES,
    ChatExample,
    Example,
    NLFTExample,
    RowFormat,
)
from worker.training.data.plain_rows import ProvedRows, find_plain_row, prove_plain_rows, row_key
from worker.training.data.row_checks import Fault, find_faults, is_trained
from worker.training.data.twins import TwinSearch
from worker.training.data.unique_keys import has_unique_keys
from worker.training.errors import DatasetError, RowProblem

_DECODERS = {name: msgspec.json.Decoder(row_type) for name, row_type in EXAMPLE_TYPES.items()}
_encode_row = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on what a reader takes and keeps.

    Attributes:
        line_bytes: Longest line without its newline.
        problems: Problems and warnings kept, each; all are counted.
        tracked_rows: Rows remembered for the search for duplicates, about 100 bytes each.
    """

    line_bytes: int = 2 * 1024 * 1024
    problems: int = 100
    tracked_rows: int = 1_000_000


class Row(NamedTuple):
    """An ``example`` and the 1-based ``line`` it came from."""

    line: int
    example: Example


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What a file holds.

    Attributes:
        format: The format of its rows, or None when no line told.
        rows: Sound rows.
        lines: Lines, the last with or without a newline.
        bytes: Bytes read.
        counts: NLFT rows: ``right``, ``wrong``, ``without_response``, ``without_reference``, ``without_judgment``
            (wrong responses that nothing criticises). Chat rows: ``trained_turns``.
        problems: What forbids training, in order of lines, capped.
        total_problems: All problems; once the list is full an unreadable line counts as one.
        warnings: What deserves a look (duplicate rows), capped.
        total_warnings: All warnings.
    """

    format: RowFormat | None
    rows: int
    lines: int
    bytes: int
    counts: Mapping[str, int]
    problems: tuple[RowProblem, ...]
    total_problems: int
    warnings: tuple[RowProblem, ...]
    total_warnings: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return asdict(self)

    def raise_for_problems(self, param: str = "training_file") -> None:
        """Raise DatasetError when there is any problem; ``param`` names the file in it."""
        if self.total_problems:
            raise DatasetError(self.problems, self.total_problems, param)


@dataclass(slots=True)
class _Findings:
    """Problems or warnings: the first ``limit``, and the count of all."""

    limit: int
    kept: list[RowProblem] = field(default_factory=list)
    total: int = 0

    def add(self, line: int, fault: Fault) -> None:
        self.total += 1
        if len(self.kept) < self.limit:
            self.kept.append(RowProblem(line, *fault))


class RowReader:
    """Takes a dataset in chunks of any size and returns its rows as soon as their lines are complete.

    Rows and report do not depend on how the bytes are cut. Memory: one line, one chunk and the bounds of ``limits``.
    """

    def __init__(self, limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._problems = _Findings(self._limits.problems)
        self._warnings = _Findings(self._limits.problems)
        self._counts: Counter[str] = Counter()
        self._twins = TwinSearch(self._limits.tracked_rows)
        self._tail = bytearray()
        self._tail_is_too_long = False
        self._blank_lines = 0
        self._format: RowFormat | None = None
        self._rows = self._lines = self._bytes = 0

    def feed(self, chunk: bytes) -> list[Row]:
        """Take the next bytes; return the sound rows whose lines they complete."""
        self._bytes += len(chunk)
        first, *rest = chunk.split(b"\n")
        self._extend_tail(first)
        if not rest:
            return []
        rows = [self._take_tail()]
        rows.extend(map(self._take_line, rest[:-1]))
        self._extend_tail(rest[-1])
        return [row for row in rows if row is not None]

    def check(self, chunk: bytes) -> None:
        """Take the next bytes like ``feed``, for the report alone: that costs a fraction where rows are plain."""
        # The first line goes its own way: it may have begun in the chunk before, and tells the format of a file.
        start, end = chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1
        self.feed(chunk[:start])
        while start < end and (proved := self._prove(chunk, start, end)):
            line_end = chunk.find(b"\n", proved.end, end) + 1 or end
            self._bytes += proved.end - start
            self._count_proved(proved)
            self.feed(chunk[proved.end : line_end])
            start = line_end
        self.feed(chunk[start:])

    def _prove(self, chunk: bytes, start: int, end: int) -> ProvedRows | None:
        """Return the sound rows from ``start`` on, or None where lines must be taken one by one."""
        if self._format != "chat" or self._blank_lines or end > start + self._limits.line_bytes:
            return None
        proved = prove_plain_rows(chunk, start, end)
        return proved if proved.keys else None

    def finish(self) -> list[Row]:
        """Take the last line, which may lack its newline; return its row if it is sound. Call ``report`` afterwards."""
        row = self._take_tail() if self._tail or self._tail_is_too_long else None
        if self._lines == self._blank_lines:
            self._problems.add(1, Fault("", "empty_file", "the file holds no rows; write one JSON object a line"))
        return [] if row is None else [row]

    def rows(self, chunks: Iterable[bytes]) -> Iterator[Row]:
        """Yield the sound rows of ``chunks``, for example of a file opened in binary mode, then finish."""
        for chunk in chunks:
            yield from self.feed(chunk)
        yield from self.finish()

    def report(self) -> ReadReport:
        """Return what was read so far."""
        return ReadReport(
            format=self._format,
            rows=self._rows,
            lines=self._lines,
            bytes=self._bytes,
            counts=dict(self._counts),
            problems=tuple(self._problems.kept),
            total_problems=self._problems.total,
            warnings=tuple(self._warnings.kept),
            total_warnings=self._warnings.total,
        )

    def _extend_tail(self, piece: bytes) -> None:
        if len(self._tail) + len(piece) > self._limits.line_bytes:
            self._tail_is_too_long = True
            self._tail.clear()
        elif not self._tail_is_too_long:
            self._tail += piece

    def _take_tail(self) -> Row | None:
        if self._tail_is_too_long:
            self._tail_is_too_long = False
            self._tail.clear()
            self._begin_line(is_blank=False)
            self._add_too_long()
            return None
        line = bytes(self._tail)
        self._tail.clear()
        return self._take_line(line)

    def _take_line(self, line: bytes) -> Row | None:
        is_blank = not line or line.isspace()
        self._begin_line(is_blank=is_blank)
        if is_blank:
            return None
        if len(line) > self._limits.line_bytes:
            self._add_too_long()
            return None
        example = self._find_example(line)
        if example is None:
            return None
        self._count(example)
        return Row(self._lines, example)

    def _begin_line(self, *, is_blank: bool) -> None:
        """Count the line; blank lines become problems once a line with content follows."""
        self._lines += 1
        if is_blank:
            self._blank_lines += 1
            return
        if self._blank_lines:
            for line in range(self._lines - self._blank_lines, self._lines):
                self._problems.add(line, Fault("", "blank_line", "the line is blank; delete it"))
            self._blank_lines = 0

    def _add_too_long(self) -> None:
        reason = f"the line is longer than {self._limits.line_bytes} bytes; shorten or split the row"
        self._problems.add(self._lines, Fault("", "line_too_long", reason))

    def _find_example(self, line: bytes) -> Example | None:
        if self._format is None:
            self._format = find_format(line)
        example = _decode(line, self._format)
        if example is not None and has_unique_keys(line, example) and next(find_faults(example), None) is None:
            return example
        is_listed = len(self._problems.kept) < self._limits.problems
        faults = diagnose(line, self._format) if is_listed or example is not None else []
        if not faults and example is None:
            faults = [Fault("", "invalid_row", "the line does not follow the row format")]
        for fault in faults:
            self._problems.add(self._lines, fault)
        return None if faults else example

    def _count(self, example: Example) -> None:
        self._rows += 1
        if isinstance(example, NLFTExample):
            for label in _nlft_labels(example):
                self._counts[label] += 1
        elif isinstance(example, ChatExample):
            self._counts["trained_turns"] += sum(map(is_trained, example.messages))
        plain = find_plain_row(example) if isinstance(example, ChatExample) else None
        first = self._twins.find(hash(_encode_row(example)) if plain is None else row_key(plain), self._lines)
        if first is not None:
            self._warn_of_twin(self._lines, first)

    def _count_proved(self, proved: ProvedRows) -> None:
        self._rows += len(proved.keys)
        self._counts["trained_turns"] += proved.trained_turns
        for line, first in self._twins.find_all(proved.keys, self._lines + 1):
            self._warn_of_twin(line, first)
        self._lines += len(proved.keys)

    def _warn_of_twin(self, line: int, first: int) -> None:
        self._warnings.add(line, Fault("", "duplicate_row", f"the same row as line {first}; keep one of them"))


def read_rows(chunks: Iterable[bytes], param: str = "training_file") -> list[Row]:
    """Return all rows of a dataset given as an opened binary file or any other cut of its bytes.

    Raises:
        DatasetError: A line is not a sound row; lists every such line. ``param`` names the file in it.
    """
    reader = RowReader(ReadLimits(line_bytes=1024**3))  # how long a line may be was decided where the file came in
    rows = list(reader.rows(chunks))
    reader.report().raise_for_problems(param)
    return rows


def _decode(line: bytes, row_format: RowFormat | None) -> Example | None:
    if row_format is None:
        return None
    try:
        return _DECODERS[row_format].decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _nlft_labels(row: NLFTExample) -> Iterator[str]:
    if row.reference is None:
        yield "without_reference"
    if row.answer is None:
        yield "without_response"
    elif row.correct is False or row.judgment is not None:
        yield "wrong"
        if row.judgment is None:
            yield "without_judgment"
    else:
        yield "right"

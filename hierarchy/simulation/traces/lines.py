"""Reading a trace entry by entry, with the line of each: its size does not matter, and an error has its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from hierarchy.errors import UsageError

CHUNK: Final = 1 << 20  # characters that are read at once of a JSON array
LONGEST: Final = 1 << 26  # characters of one entry
MAX_TOKENS: Final = 10**8  # of one prompt or response; more cannot be meant


class Place(NamedTuple):
    """A line of a file."""

    file: Path
    line: int

    def error(self, what: str) -> UsageError:
        """The error that something is wrong there."""
        return UsageError(f"{self.file}:{self.line}: {what}")


class Entry(NamedTuple):
    """One entry of a trace, and where it is."""

    place: Place
    value: Any

    def tokens(self, field: str, least: int = 0) -> int:
        """A count of tokens. Raises `UsageError`."""
        number = self.number(field)
        if not least <= number <= MAX_TOKENS or number != int(number):
            raise self.place.error(f'"{field}" is {number:g}; write a whole number from {least} to {MAX_TOKENS}')
        return int(number)

    def number(self, field: str) -> float:
        """A number of 0 or more. Raises `UsageError`."""
        value = self.value.get(field) if isinstance(self.value, dict) else None
        if value is None or value == "":
            raise self.place.error(f'"{field}" is missing')
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0 <= number < 1e18:
            raise self.place.error(f'"{field}" is {value!r:.40}, not a number of 0 or more')
        return number


def open_text(file: Path) -> IO[str]:
    """Open a trace as text. Raises `UsageError`."""
    try:
        return file.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise _unreadable(file, error) from None


def open_bytes(file: Path) -> IO[bytes]:
    """Open a trace. Raises `UsageError`."""
    try:
        return file.open("rb")
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> UsageError:
    return UsageError(f"--trace {file}: cannot be read ({error.strerror}); check the path")


def first_line(file: Path) -> str:
    """The first line that is not empty, as far as `CHUNK`; "" of an empty file. Raises `UsageError`."""
    with open_bytes(file) as lines:
        line = b"\n"
        while line and not line.strip():
            line = lines.readline(CHUNK)
    try:
        return line.decode("utf-8-sig", "strict" if len(line) < CHUNK else "ignore").strip()
    except UnicodeDecodeError:
        raise UsageError(f"--trace {file}: is not UTF-8; unpack it first, if it is packed") from None


def csv_entries(file: Path) -> Iterator[Entry]:
    """The rows of a CSV file with a head. Raises `UsageError`."""
    with open_text(file) as lines:
        rows = csv.DictReader(lines)
        try:
            for row in rows:
                yield Entry(Place(file, rows.line_num), row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise Place(file, rows.line_num + 1).error(f"cannot be read as CSV: {error}") from None


def json_lines(file: Path) -> Iterator[Entry]:
    """The objects of a file with one on each line. Raises `UsageError`."""
    with open_bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Entry(Place(file, number), _decoded(line, Place(file, number)))


def _decoded(line: bytes, place: Place) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError:
        raise place.error("is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise place.error(f"is not JSON: {error}") from None


def json_array(file: Path) -> Iterator[Entry]:
    """The elements of a JSON array, without the whole file in memory. Raises `UsageError`."""
    with open_text(file) as text:
        yield from _Array(file, text).elements()


class _Array:
    """The text of an array, of which a part is in memory."""

    def __init__(self, file: Path, text: IO[str]) -> None:
        self._file = file
        self._text = text
        self._buffer = ""
        self._at = 0  # in the buffer
        self._line = 1  # of `_at`
        self._is_whole = False  # all of the file has been read

    def elements(self) -> Iterator[Entry]:
        decoder = json.JSONDecoder()
        self._skip()
        self._move(1)  # "["
        while (sign := self._skip()) not in ("", "]"):
            if sign == ",":
                self._move(1)
                continue
            yield self._element(decoder)
        if sign == "":
            raise Place(self._file, self._line).error('the array has no end; the file is cut off, or "]" is missing')

    def _element(self, decoder: json.JSONDecoder) -> Entry:
        place = Place(self._file, self._line)
        while True:
            try:
                value, end = decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more():
                    raise place.error(f"the entry that begins here is not JSON: {_reason(error)}") from None
                continue
            self._move(end - self._at)
            return Entry(place, value)

    def _skip(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            rest = len(self._buffer) - len(self._buffer[self._at :].lstrip()) if self._at < len(self._buffer) else 0
            if self._at < len(self._buffer) and rest < len(self._buffer):
                self._move(rest - self._at)
                return self._buffer[self._at]
            if not self._more():
                return ""

    def _move(self, characters: int) -> None:
        end = self._at + characters
        self._line += self._buffer.count("\n", self._at, end)
        self._at = end
        if self._at > CHUNK:
            self._buffer, self._at = self._buffer[self._at :], 0

    def _more(self) -> bool:
        """Read on. Returns whether there is more, and the entry is not too long."""
        if self._is_whole or len(self._buffer) - self._at > LONGEST:
            return False
        try:
            chunk = self._text.read(max(CHUNK, len(self._buffer) - self._at))
        except UnicodeDecodeError:
            raise Place(self._file, self._line).error("is not UTF-8, here or further down") from None
        self._is_whole = not chunk
        self._buffer += chunk
        return bool(chunk)


def _reason(error: BaseException) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)

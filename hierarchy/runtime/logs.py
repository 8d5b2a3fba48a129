"""Logs on stderr: text lines for people, or one JSON object a line.

Text from a client may be part of a message, so control characters are escaped: no client can forge a line or send a
command to the operator's terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal, Protocol

from hierarchy.runtime.line_writer import Gap, LineWriter

LogFormat = Literal["text", "json"]
AUDIT = "hierarchy.audit"  # the logger of operators' commands; its lines are never dropped to make room for others

MAX_MESSAGE = 4000  #: characters of a message; collectors of logs cut or drop lines of 16 kB
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # change the order in which a line is displayed
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")}
_CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_BIDI)}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r"}

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_TEXT_LINE = re.compile(r"(?P<time>\d\d:\d\d:\d\d) (?P<level>[A-Z]+) (?P<name>\S+): (?P<message>.*)")
_NOT_EXTRA = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"})
_VERBOSE = ("httpx", "httpcore", "asyncio")  # loggers that write a line for each request or connection at INFO


class Stream(Protocol):
    """Where log lines go: any text file, or the console of `hierarchy up`."""

    def write(self, text: str, /) -> object:
        """Write the text of one or more lines."""

    def flush(self) -> object:
        """Write out buffered text."""


def setup(format: LogFormat, name: str, level: int | str = "INFO", stream: Stream | None = None) -> None:
    """Send all loggers of this process, including uvicorn's, to `stream` (default: stderr).

    Another call replaces the set-up. `uvicorn.Config` needs `log_config=None`, or it adds its own handlers again.

    Args:
        name: the node's name, which is in each line.
    """
    target = sys.stderr if stream is None else stream
    handler = _WriterHandler(target) if isinstance(target, LineWriter) else logging.StreamHandler(target)
    handler.setFormatter(formatter(format, name, colour=wants_colour(target)))
    if isinstance(target, LineWriter):
        target.describe = lambda gap: f"{handler.format(gap_record(gap))}\n"
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for uvicorn in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(uvicorn)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for verbose in _VERBOSE:
        logging.getLogger(verbose).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


class _WriterHandler(logging.StreamHandler[LineWriter]):
    """Writes the audit log, too, where other lines are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never waits."""
        try:
            self.stream.write(f"{self.format(record)}\n", keep=record.name == AUDIT)
        except Exception:
            self.handleError(record)


def formatter(format: LogFormat, name: str, *, colour: bool) -> logging.Formatter:
    """What makes the lines of a node."""
    return JsonFormatter(name) if format == "json" else TextFormatter(name, colour=colour)


def gap_record(gap: Gap) -> logging.LogRecord:
    """A record about lines that are missing, at its place."""
    warning = {"levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({"name": "hierarchy.log", "msg": "%s", "args": (gap,), **warning})


def wants_colour(stream: object) -> bool:
    """Whether `stream` is a terminal whose user did not switch colours off (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty()) and not os.environ.get("NO_COLOR")


def escape(text: str) -> str:
    """`text` with control characters written as `\\n`, `\\x1b`... Escaping it again changes nothing."""
    return text.translate(_CONTROL)


def shorten(message: str) -> str:
    """`message`, or its beginning and how much is missing: a peer decides how long some parts of messages are."""
    rest = len(message) - MAX_MESSAGE
    return message if rest <= 0 else f"{message[:MAX_MESSAGE]}... ({rest} more characters)"


def paint(text: str, code: str, colour: bool) -> str:
    """`text` in the ANSI colour `code` if `colour`, else as it is."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def relabel(line: str, name: str, colour: bool) -> str:
    """A text line of the process `name`, without that name, for output that puts a prefix of its own before each line.

    A line in another format is only escaped. colour: paint the time and the level.
    """
    line = escape(line)
    match = _TEXT_LINE.fullmatch(line)
    if match is None or match["name"] != name:
        return line
    return _text(match["time"], match["level"], "", match["message"], colour)


def parse(line: str, name: str) -> tuple[int, str]:
    """Level and message of a text line of the process `name`; INFO and the whole line if it has another format."""
    match = _TEXT_LINE.fullmatch(escape(line))
    if match is None or match["name"] != name:
        return logging.INFO, line
    return logging.getLevelNamesMapping().get(match["level"], logging.INFO), match["message"]


def _text(time: str, level: str, name: str, message: str, colour: bool) -> str:
    label = paint(f"{name}: ", "1", colour) if name else ""
    return f"{paint(time, '2', colour)} {paint(level, _COLOURS.get(level, '0'), colour)} {label}{message}"


class TextFormatter(logging.Formatter):
    """`12:31:04 INFO site-a: message`. The lines of a traceback are indented, so that none looks like a log line."""

    def __init__(self, name: str, colour: bool = False) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.name = name
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of a traceback."""
        time = self.formatTime(record, self.datefmt)
        line = _text(time, record.levelname, self.name, escape(shorten(record.getMessage())), self.colour)
        trace = _trace(self, record)
        return "\n".join([line, *(f"    {escape(part)}" for part in trace.split("\n") if part)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts` (ISO 8601, UTC), `level`, `node`, `logger`, `message`, `exception`, and extras.

    Extras never replace these fields. python-json-logger would let them: it also merges a message that is a dict into
    the top level.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def format(self, record: logging.LogRecord) -> str:
        """The object, without a line end."""
        trace = _trace(self, record)
        extras = {key: value for key, value in vars(record).items() if key not in _NOT_EXTRA}
        fields: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "node": self.name,
            "logger": record.name,
            "message": shorten(record.getMessage()),
        }
        if trace:
            fields["exception"] = trace
        return json.dumps(extras | fields, default=str)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0]:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)

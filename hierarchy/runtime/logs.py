"""Logs on stderr: a line that a person can read, or one JSON object a line.

Whatever a client sent may end up in a message, so control characters are escaped: nobody can forge a line, or send the
operator's terminal a command.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal, Protocol

LogFormat = Literal["text", "json"]

_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # reorder what the eye sees of a line
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")}
_CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *_BIDI)}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r"}

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_TEXT_LINE = re.compile(r"(?P<time>\d\d:\d\d:\d\d) (?P<level>[A-Z]+) (?P<name>\S+): (?P<message>.*)")
_NOT_EXTRA = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"})
_CHATTY = ("httpx", "httpcore", "asyncio")  # a line a request, or a line a connection, at INFO


class Stream(Protocol):
    """Where log lines go; any text file, or what `hierarchy up` puts in place of one."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def setup(format: LogFormat, name: str, level: int | str = "INFO", stream: Stream | None = None) -> None:
    """Send every logger of this process, uvicorn's among them, to `stream` (default: stderr).

    `name` is the node's. Give `uvicorn.Config` `log_config=None`, or it puts its own handlers back. Calling this again
    replaces what the last call set up.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonFormatter(name) if format == "json" else TextFormatter(name, colour=wants_colour(target)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for uvicorn in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(uvicorn)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


def wants_colour(stream: object) -> bool:
    """Whether `stream` is a terminal whose user did not ask for plain text (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty()) and not os.environ.get("NO_COLOR")


def escape(text: str) -> str:
    """`text` with control characters written out as `\\n`, `\\x1b`...; what is escaped already stays as it is."""
    return text.translate(_CONTROL)


def paint(text: str, code: str, colour: bool) -> str:
    """`text` in the ANSI colour `code`, when `colour`."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text


def relabel(line: str, name: str, colour: bool) -> str:
    """A line that another process logged as `name`, without the name and in colour; for who puts a prefix before it.

    A line that is not of our text format only has its control characters escaped.
    """
    line = escape(line)
    match = _TEXT_LINE.fullmatch(line)
    if match is None or match["name"] != name:
        return line
    return _text(match["time"], match["level"], "", match["message"], colour)


def parse(line: str, name: str) -> tuple[int, str]:
    """Level and message of a line that another process logged as `name`; INFO and the whole line if it is not such."""
    match = _TEXT_LINE.fullmatch(escape(line))
    if match is None or match["name"] != name:
        return logging.INFO, line
    return logging.getLevelNamesMapping().get(match["level"], logging.INFO), match["message"]


def _text(time: str, level: str, name: str, message: str, colour: bool) -> str:
    label = paint(f"{name}: ", "1", colour) if name else ""
    return f"{paint(time, '2', colour)} {paint(level, _COLOURS.get(level, '0'), colour)} {label}{message}"


class TextFormatter(logging.Formatter):
    """`12:31:04 INFO site-a: message`; a traceback follows, indented, so that none of its lines passes for another."""

    def __init__(self, name: str, colour: bool = False) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.name = name
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, self.datefmt)
        line = _text(time, record.levelname, self.name, escape(record.getMessage()), self.colour)
        trace = _trace(self, record)
        return "\n".join([line, *(f"    {escape(part)}" for part in trace.split("\n") if part)])


class JsonFormatter(logging.Formatter):
    """One object a line: `ts` (ISO 8601, UTC), `level`, `node`, `logger`, `message`, `exception` if any, and extras."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def format(self, record: logging.LogRecord) -> str:
        trace = _trace(self, record)
        extras = {key: value for key, value in vars(record).items() if key not in _NOT_EXTRA}
        fields: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "node": self.name,
            "logger": record.name,
            "message": record.getMessage(),
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

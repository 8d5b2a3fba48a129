"""Log lines: both formats, and that no message can forge a line."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.runtime import logs

LINE = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ \S+: .*")


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Restores the loggers of this process."""
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "httpx", "httpcore", "asyncio")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_text_record_is_one_readable_line() -> None:
    out = io.StringIO()
    logs.setup("text", "site-a", stream=out)
    logging.getLogger("hierarchy.uplink").info("registered with %s", "root")
    logging.getLogger("hierarchy.uplink").debug("not at this level")
    (line,) = lines_of(out)
    assert LINE.fullmatch(line)
    assert line.endswith(" INFO site-a: registered with root")


def test_default_stream_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("text", "site-a", logging.WARNING)
    logging.getLogger("x").warning("hello")
    logging.getLogger("x").info("hidden")
    captured = capsys.readouterr()
    assert captured.err.endswith("WARNING site-a: hello\n")
    assert captured.out == ""


def test_a_json_record_is_one_object_with_extras() -> None:
    out = io.StringIO()
    logs.setup("json", "site-a", stream=out)
    logging.getLogger("hierarchy.lane").warning("slow\n%s", "child", extra={"child": "gpu-1", "ms": 12, "path": object})
    (line,) = lines_of(out)
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("ts")).utcoffset() is not None
    assert record.pop("path").startswith("<class")  # values that JSON cannot represent are written as text
    assert record == {
        "level": "WARNING",
        "node": "site-a",
        "logger": "hierarchy.lane",
        "message": "slow\nchild",
        "child": "gpu-1",
        "ms": 12,
    }


def test_json_extras_cannot_replace_its_own_fields() -> None:
    out = io.StringIO()
    logs.setup("json", "site-a", stream=out)
    logging.getLogger("x").info("hello", extra={"node": "root", "level": "forged", "ts": 0})
    record = json.loads(out.getvalue())
    assert (record["node"], record["level"]) == ("site-a", "INFO")
    assert record["ts"] != 0


def test_a_traceback_is_indented_in_text_and_a_field_in_json() -> None:
    text, as_json = io.StringIO(), io.StringIO()
    for format, out in (("text", text), ("json", as_json)):
        logs.setup(format, "a", stream=out)  # type: ignore[arg-type]
        try:
            raise ValueError("evil\n12:00:00 INFO a: forged")
        except ValueError:
            logging.getLogger("x").exception("failed")
    first, *trace = lines_of(text)
    assert first.endswith("ERROR a: failed")
    assert any("ValueError: evil" in line for line in trace)
    assert not any(LINE.match(line) for line in trace)
    (line,) = lines_of(as_json)
    assert "ValueError: evil\n" in json.loads(line)["exception"]


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\n\r\x1b\x85\u2028\u202e\x00\x9b\x7f"))))
def test_no_message_can_forge_a_line(message: str) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (message,), "levelname": "INFO"})
    line = logs.TextFormatter("a").format(record)
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", line)
    assert logs.escape(line) == line  # escaping twice changes nothing
    assert json.loads(logs.JsonFormatter("a").format(record))["message"] == message
    assert "\n" not in logs.JsonFormatter("a").format(record)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_message_of_megabytes_is_a_line_that_can_be_read(format: logs.LogFormat) -> None:
    stream = io.StringIO()
    logs.setup(format, "n", stream=stream)
    logging.getLogger("hierarchy").warning("models %s", "é\n" * 5_000_000)
    (line,) = stream.getvalue().splitlines()
    assert len(line) < 8 * logs.MAX_MESSAGE
    assert f"... ({10_000_007 - logs.MAX_MESSAGE} more characters)" in line


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        ("a\nb", "a\\nb"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\tb", "a\tb"),
        ("smørrebrød 猫", "smørrebrød 猫"),
    ],
)
def test_control_characters_are_escaped(raw: str, escaped: str) -> None:
    assert logs.escape(raw) == escaped


def test_colours_are_used_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert logs.wants_colour(Terminal())
    assert not logs.wants_colour(io.StringIO())
    assert not logs.wants_colour(object())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not logs.wants_colour(Terminal())


def test_a_coloured_line_has_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    logs.setup("text", "site-a", stream=out)
    logging.getLogger("x").error("it broke")
    (line,) = lines_of(out)
    assert "\x1b[31mERROR\x1b[0m" in line
    assert re.sub(r"\x1b\[[\d;]*m", "", line).endswith("ERROR site-a: it broke")


@pytest.mark.parametrize("access_log", [True, False])
def test_uvicorns_records_use_the_same_format(access_log: bool) -> None:
    out = io.StringIO()
    logs.setup("text", "root", stream=out)
    uvicorn.Config("x:y", log_config=None, access_log=access_log)
    logging.getLogger("uvicorn.error").info("started", extra={"color_message": "x"})
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/a\r\nb", "1.1", 200)
    assert [line.split(" ", 1)[1] for line in lines_of(out)] == [
        "INFO root: started",
        *(['INFO root: 1.2.3.4:5 - "GET /a\\r\\nb HTTP/1.1" 200'] if access_log else []),
    ]


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.setup("text", "a", stream=first)
    logs.setup("text", "b", stream=second)
    logging.getLogger("uvicorn.error").info("once")
    assert first.getvalue() == ""
    assert len(lines_of(second)) == 1


def test_requests_of_http_clients_are_not_logged() -> None:
    out = io.StringIO()
    logs.setup("text", "a", stream=out)
    logging.getLogger("httpx").info("HTTP Request: POST http://x")
    logging.getLogger("httpx").warning("odd")
    assert len(lines_of(out)) == 1


def test_warnings_are_logged() -> None:
    out = io.StringIO()
    logs.setup("text", "a", stream=out)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    assert "UserWarning: old" in out.getvalue()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("12:31:04 INFO site-a: up\x1b", "12:31:04 INFO up\\x1b"),
        ("12:31:04 INFO site-b: not its own name", "12:31:04 INFO site-b: not its own name"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ('{"ts": "x"}', '{"ts": "x"}'),
    ],
)
def test_relabel_removes_the_nodes_own_name(line: str, shown: str) -> None:
    assert logs.relabel(line, "site-a", colour=False) == shown
    assert re.sub(r"\x1b\[[\d;]*m", "", logs.relabel(line, "site-a", colour=True)) == shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("12:31:04 WARNING a-1: it is late", (logging.WARNING, "it is late")),
        ("12:31:04 WARNING b-1: it is late", (logging.INFO, "12:31:04 WARNING b-1: it is late")),
        ("main: loading", (logging.INFO, "main: loading")),
    ],
)
def test_parse_reads_the_line_of_another_process(line: str, expected: tuple[int, str]) -> None:
    assert logs.parse(line, "a-1") == expected


def test_a_message_that_is_a_dict_cannot_replace_the_fields_of_json() -> None:
    record = logging.makeLogRecord({"msg": {"node": "root", "level": "forged"}, "levelname": "INFO"})
    fields = json.loads(logs.JsonFormatter("site-a").format(record))
    assert (fields["node"], fields["level"]) == ("site-a", "INFO")
    assert "forged" in fields["message"]

"""Writing lines for a reader who may stop reading."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchy.runtime.line_writer import KEPT_LINES, Gap, LineWriter, Stderr, own_stderr
from tests.support import DEADLINE_S, eventually


class Pipe:
    """A pipe, and what came through it so far."""

    def __init__(self) -> None:
        self.source, self.target = os.pipe()
        self.text = ""

    def fill(self) -> None:
        """Write until the next write would wait."""
        os.set_blocking(self.target, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.target, b"x" * 4096)
        os.set_blocking(self.target, True)

    def read_until(self, pattern: str) -> str:
        """Read until the text has the pattern."""
        while not re.search(pattern, self.text):
            self.text += os.read(self.source, 65536).decode()
        return self.text.lstrip("x")

    def read_all(self, writer: LineWriter) -> str:
        """Read until the writer has nothing left, and close the pipe."""
        ended = threading.Thread(target=lambda: (writer.drain(DEADLINE_S), os.write(self.target, b"\0")))
        ended.start()
        text = self.read_until("\0")
        ended.join(DEADLINE_S)
        return text.removesuffix("\0")

    def close(self) -> None:
        """Close both ends."""
        for fd in (self.source, self.target):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_a_reader_that_stands_still_stops_nothing_and_the_gap_is_where_lines_are_missing(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.target, max_lines=5)
    writer.write("line 0\n")
    eventually(lambda: not writer._waiting, "the thread to have it")
    for number in range(1, 100_000):
        writer.write(f"line {number}\n")
    text = pipe.read_all(writer)
    first = [f"line {number}\n" for number in range(6)]
    assert text == "".join(first) + "99994 log lines are missing here: their reader did not read for too long\n"
    writer.write("the next\n")
    assert pipe.read_until("next\n").endswith("the next\n")


def test_lines_that_must_not_be_lost_have_room_of_their_own(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.target, max_lines=2)
    writer.write("line 0\n")
    eventually(lambda: not writer._waiting, "the thread to have it")
    for number in range(KEPT_LINES + 10):
        writer.write(f"line {number}\n")
        writer.write(f"audit {number}\n", keep=True)
    text = pipe.read_all(writer)
    kept = [int(number) for number in re.findall(r"audit (\d+)", text)]
    assert kept == list(range(len(kept)))
    missing = [int(number) for number in re.findall(r"\((\d+) of the audit log\)", text)]
    assert len(kept) + sum(missing) == KEPT_LINES + 10, "none is lost without a word"
    assert len(kept) >= KEPT_LINES // 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["write", "keep", "read"]), max_size=60), st.integers(1, 4))
def test_each_line_comes_in_its_order_or_is_counted(steps: list[str], max_lines: int) -> None:
    pipe = Pipe()
    try:
        pipe.fill()
        writer = LineWriter(pipe.target, max_lines)
        written = 0
        for step in steps:
            if step == "read":
                pipe.text += os.read(pipe.source, 4096).decode()
            else:
                written += 1
                writer.write(f"line {written}\n", keep=step == "keep")
        text = pipe.read_all(writer)
        came = [int(number) for number in re.findall(r"line (\d+)", text)]
        missing = sum(int(number) for number in re.findall(r"(\d+) log lines? (?:\(|is|are)", text))
        assert came == sorted(came)
        assert len(came) + missing == written
    finally:
        pipe.close()


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.source)
    writer = LineWriter(pipe.target)
    writer.write("no process reads this\n")
    assert writer.drain(DEADLINE_S)


def test_lines_that_a_full_disk_refused_are_counted() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = LineWriter(full)
        for _ in range(3):
            writer.write("lost\n")
        assert writer.drain(DEADLINE_S)
        source, target = os.pipe()
        os.dup2(target, full)
        os.close(target)
        writer.write("again\n")
        assert writer.drain(DEADLINE_S)
        expected = "3 log lines are missing here: they could not be written (No space left on device)\nagain\n"
        assert os.read(source, 4096).decode() == expected
        os.close(source)
    finally:
        os.close(full)


def test_a_descriptor_that_another_process_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.target, False)
    writer = LineWriter(pipe.target)
    for number in range(2000):
        writer.write(f"line {number} {'x' * 100}\n")
    os.set_blocking(pipe.target, False)
    text = pipe.read_until("line 1999 x+\n")
    assert re.findall(r"line (\d+)", text) == [str(number) for number in range(2000)]


def test_the_end_of_the_process_waits_for_the_last_lines_but_not_for_ever(pipe: Pipe) -> None:
    writer = LineWriter(pipe.target)
    writer.write("last words\n")
    assert writer.drain(DEADLINE_S)
    assert os.read(pipe.source, 100) == b"last words\n"
    pipe.fill()
    writer.write("not read\n")
    assert not writer.drain(0.05)


def test_what_anything_prints_waits_in_the_same_line(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)
    with own_stderr(pipe.target) as writer:
        print("a", 1, file=sys.stderr)  # noqa: T201
        writer.write("b\n")
        print("without an end", end="", file=sys.stderr)  # noqa: T201
    assert sys.stderr is before
    assert os.read(pipe.source, 100) == b"a 1\nb\nwithout an end"


def test_at_the_end_a_stuck_stderr_is_not_written_to_again(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    pipe.fill()
    with own_stderr(pipe.target, 0.05):
        print("not read", file=sys.stderr)  # noqa: T201
    assert isinstance(sys.stderr, Stderr)


def test_a_gap_is_one_sentence() -> None:
    assert str(Gap(1)) == "1 log line is missing here: their reader did not read for too long"
    assert str(Gap(3, 2)) == "3 log lines (2 of the audit log) are missing here: their reader did not read for too long"


def test_a_forked_process_writes_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        writer = LineWriter(file.fileno())
        writer.write("parent\n")
        assert writer.drain(DEADLINE_S)
        child = os.fork()
        if child == 0:
            writer.write("child\n")
            os._exit(0 if writer.drain(DEADLINE_S) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "log").read_text() == "parent\nchild\n"

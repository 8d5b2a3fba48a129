"""The processes of `hierarchy up`: run until a signal, and their log lines on one terminal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial

from hierarchy.cli.output import count
from hierarchy.runtime import logs, signals
from hierarchy.runtime.line_writer import Gap
from hierarchy.runtime.log_file import LogFile
from hierarchy.runtime.parent_death import call_on_parent_death
from hierarchy.runtime.processes import SupervisedProcess

log = logging.getLogger("hierarchy.cli.up")

OWN_NAME = "up"  # before the log lines of this process
_LABEL_COLOURS = ("36", "32", "33", "35", "34", "96", "92", "93", "95", "94")


async def supervise(nodes: Sequence[SupervisedProcess], grace_s: float, *, exit_with_parent: bool = False) -> int:
    """Run `nodes` until a signal comes or one of them cannot start, then end them all.

    The first SIGINT, SIGTERM or SIGQUIT lets them finish for up to `grace_s`, the second kills them. SIGHUP is such a
    signal if the terminal was closed. Otherwise it reopens the log, and logs that nodes read a changed file by
    themselves: to a daemon it means "read your configuration again", so it must not end a tree.

    Returns:
        The exit status: 0 after a signal, 1 if a process could not be ended, else that of the node that cannot start.
    """
    ending = _end_event(nodes, grace_s, exit_with_parent)
    log.info("starting %s: %s", count(len(nodes), "node"), ", ".join(node.name for node in nodes))
    runs = [asyncio.create_task(node.run()) for node in nodes]
    signalled = asyncio.create_task(ending.wait())
    await asyncio.wait({signalled, *runs}, return_when=asyncio.FIRST_COMPLETED)
    fatal_status = next((run.result() for run in runs if run.done()), None)
    if fatal_status is not None:
        log.error("ending the other nodes")
    ending.set()
    signalled.cancel()
    ended = await asyncio.gather(*(node.stop(grace_s) for node in nodes))
    running = [f"{node.name} (pid {node.pid})" for node, has_ended in zip(nodes, ended, strict=True) if not has_ended]
    if running:
        log.error("could not be ended: %s", ", ".join(running))
        return 1
    log.info("ended all %s", count(len(nodes), "node"))
    return fatal_status or 0


def _end_event(nodes: Sequence[SupervisedProcess], grace_s: float, exit_with_parent: bool) -> asyncio.Event:
    """An event that the first signal or the parent's death sets. Each later signal kills the nodes."""
    ending = asyncio.Event()

    def on_signal() -> None:
        if ending.is_set():
            log.warning("killing all that still run")
            for node in nodes:
                node.kill()
        else:
            log.info("ending; running streams may finish for %g s, another Ctrl-C kills them", grace_s)
            ending.set()

    loop = asyncio.get_running_loop()
    for number in signals.ENDING:
        loop.add_signal_handler(number, on_signal)
    if (hangup := signals.hangup()) is not None:
        log_file = LogFile()
        hangup.listen(loop, lambda: _hung_up(log_file), on_signal)
    if exit_with_parent:
        call_on_parent_death(partial(_set_from_thread, loop, ending))
    return ending


def _hung_up(log_file: LogFile) -> None:
    log_file.reopen_and_log()
    log.info("a hangup ends nothing: each node reads a changed file by itself")


def _set_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: this process is ending anyway
        loop.call_soon_threadsafe(event.set)


class Console:
    """Puts the name of the node before each line of its log. Also a stream, for the log lines of this process.

    In the format "json" the lines contain the name already. A line that is not JSON, such as one of a traceback, is
    wrapped.
    """

    def __init__(
        self, write: Callable[[str], object], names: Sequence[str], format: logs.LogFormat, colour: bool
    ) -> None:
        self._write = write
        self._format = format
        self._colour = colour
        self._own = logs.formatter(format, OWN_NAME, colour=False)
        self._width = max(map(len, [OWN_NAME, *names]))
        self._colours = {name: _LABEL_COLOURS[i % len(_LABEL_COLOURS)] for i, name in enumerate(names)}

    def on_line(self, name: str, line: str) -> None:
        """Write a line of the node `name`."""
        self._write(self._labelled(name, line))

    def on_gap(self, gap: Gap) -> str:
        """The line that stands for lines which this process could not write."""
        return self._labelled(OWN_NAME, self._own.format(logs.gap_record(gap)))

    def _labelled(self, name: str, line: str) -> str:
        if self._format == "text":
            label = logs.paint(f"{name:{self._width}} │", self._colours.get(name, "2"), self._colour)
            line = f"{label} {logs.relabel(line, name, self._colour)}"
        elif not line.startswith("{"):
            record = logging.makeLogRecord({"name": "stderr", "msg": line, "levelname": "INFO"})
            line = logs.JsonFormatter(name).format(record)
        return line + "\n"

    def write(self, text: str) -> None:
        """Write log lines of this process."""
        for line in text.splitlines():
            self.on_line(OWN_NAME, line)

    def flush(self) -> None:
        """Does nothing: no line is held back."""

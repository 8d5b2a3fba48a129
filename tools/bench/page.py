"""Writes docs/reference/benchmarks.md: the method, the machine, what was switched on, and the figures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench import procfs
from bench.benchmark import Scale
from bench.table import Row, markdown
from bench.testbed import ROOT, find_nginx
from hierarchy.config.models import Settings
from hierarchy.release import VERSION

DOCS = ROOT / "docs" / "reference"
CHARTS = "benchmarks"  # folder beside the page

METHOD = """\
# Benchmarks

    python tools/bench/run.py                        # everything; writes this page
    python tools/bench/run.py --only json,sse        # some scenarios, to the terminal only
    python tools/bench/run.py --peer vllm-router     # beside other routers, each from PyPI in its own environment
    python tools/bench/run.py --long                 # watch open streams for ten minutes
    python tools/bench/run.py --interpreted          # without compiling

The benchmark needs Linux, because it reads /proc. It measures nginx too if nginx is installed (Debian: `apt install
nginx-light`).

## How it is measured
- **CPU of the router only.** The benchmark adds the user and kernel time of the router's processes, read from /proc
  while all clients are busy, and divides it by the responses or chunks of that time. The figure is the cost of routing.
  It does not depend on the engines and clients on the same machine. Three levels are three processes, added up.
- **Relative to nginx.** Figures of two machines, or of one machine at two times, cannot be compared. Ratios within one
  run can. Each round measures every router once and starts with another one. The table shows the median of the rounds'
  ratios. nginx runs with `tools/bench/nginx.conf`: one worker process, keep-alive to clients and engines, no buffering,
  no access log.
- **The installed program.** The benchmark measures what `pip install .` installs on a machine with a C compiler: the
  compiled data path (docs/explanation/compiled.md). It also measures the same sources interpreted, and a chain of three
  nginx, which shows the least that three levels can cost.
- **Engines.** Two processes of `tools/bench/engine.py` answer with 1 KB at once, or stream 128 SSE events of 200 bytes,
  10 ms apart. Each stream has its own clock.
- **Streams start one after another**, spread over the length of one stream. Time to first token is the time to the
  first *body* byte at the client, minus the same time when the client calls the engines directly.
- **Memory** is the growth of the router's proportional set size for each open stream, after some streams have come and
  gone. It does not include the kernel's socket buffers.
- **Cancels.** The client closes its connection in the middle of a stream. Client and engine read the same clock.
- **The slow client** reads 1 KB/s of a response that its engine sends as fast as it can.

Each peer runs with its own defaults and the policy `round_robin`, in front of the same engines.
"""


@dataclass(frozen=True)
class Setting:
    """How a run was made."""

    scale: Scale
    took_s: float
    #: names of the peers that were measured
    peers: Sequence[str]
    #: `Build.description`
    build: str

    def lines(self) -> list[str]:
        """The setting in words, for the terminal and the page."""
        scale = self.scale
        python = f"Python {platform.python_version()}, uvloop {version('uvloop')}, uvicorn {version('uvicorn')}"
        return [
            f"hierarchy {VERSION}{_commit()}, {self.build}; {python}; {_nginx_version()}",
            procfs.machine(),
            f"medians of {scale.rounds} interleaved rounds of {scale.seconds:g} s, {self.took_s / 60:.0f} min in total"
            + (f"; peers: {', '.join(self.peers)}" if self.peers else ""),
        ]


def features(settings: Settings) -> list[str]:
    """What the measured nodes do for each request. settings: of these nodes."""
    log = "on" if settings.access_log else "off (as in nginx)"
    return [
        f"policy `{settings.dispatch}` on each model's load: exact leases, corrected by reports",
        "the entry node reads the model's name from the JSON body; nodes below read it from the parent's header field",
        "metrics: requests by outcome, histograms of time to first byte and total time, by model, API and child",
        f"limits: head {settings.max_head_bytes} bytes and {settings.max_head_fields} fields, body "
        f"{settings.max_body_bytes} bytes",
        f"deadlines: connect {settings.connect_timeout_s:g} s, receive {settings.receive_timeout_s:g} s, first byte "
        f"{settings.first_byte_timeout_s:g} s, idle {settings.idle_timeout_s:g} s",
        "attempts lent to nodes below, a retry budget, ejection; a cut stream ends with an error event",
        "strict HTTP: framing checked in both directions, hop-by-hop fields removed, `x-hierarchy-path` added",
        f"probes of the engines every {settings.probe_interval_s:g} s, reports to the parent every "
        f"{settings.report_interval_s:g} s",
        f"access log: {log}; TLS: off everywhere",
    ]


def page(rows: Sequence[Row], notes: Sequence[str], charts: Mapping[str, str], setting: Setting) -> str:
    """The page as Markdown."""
    parts = [METHOD, "## What was switched on\n" + _items(features(Settings()))]
    parts.append("## Figures\n" + _items(setting.lines()) + "\n" + markdown(rows))
    if notes:
        parts.append("Notes:\n\n" + _items(notes))
    parts.append("\n".join(f"![{Path(name).stem}]({CHARTS}/{name})\n" for name in charts))
    return "\n".join(parts)


def write(rows: Sequence[Row], notes: Sequence[str], charts: Mapping[str, str], setting: Setting) -> Path:
    """Write the page and its charts; delete the charts of the last run. Returns the page's path."""
    folder = DOCS / CHARTS
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, chart in charts.items():
        (folder / name).write_text(chart)
    path = DOCS / "benchmarks.md"
    path.write_text(page(rows, notes, charts, setting))
    return path


def _items(lines: Sequence[str]) -> str:
    return "".join(f"- {' '.join(line.split())}\n" for line in lines)


def _commit() -> str:
    version_text = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty=, changed", "--exclude=*")
    return f" ({version_text})" if version_text else ""


def _nginx_version() -> str:
    program = find_nginx()
    return _output(program, "-v").removeprefix("nginx version: ").replace("/", " ") if program else "no nginx"


def _output(*argv: str) -> str:
    """A command's output in one line; empty if the command fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " ".join((done.stdout + done.stderr).split()) if done.returncode == 0 else ""

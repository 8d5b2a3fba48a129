"""The command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from bench import build, page, plots, procfs, table
from bench.benchmark import QUICK, STREAM_S, WARM_S, Benchmark, Result, Scale
from bench.peers import PEERS
from bench.scenarios import cancel, choosing, latency, link, memory, prefixes, reports, slow, throughput
from bench.testbed import ROOT, TestBed, find_nginx
from hierarchy.errors import HierarchyError, UsageError

LONG_HOLD_S = 600.0  # `Scale.hold_s` with --long
START_S = 8.0  # until the processes of a scenario have started
INSTALL_S = 300.0  # for one peer, the first time
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Scenario:
    """One thing to measure."""

    run: Callable[[Benchmark], Awaitable[Result]]
    #: about how many seconds `run` takes, for this scale and number of routers
    seconds: Callable[[Scale, int], float]


def _rounds_s(targets: int | None, ramp_s: float, times: int = 1) -> Callable[[Scale, int], float]:
    """`Scenario.seconds` of rounds that measure `targets` (None: all routers)."""
    return lambda scale, routers: times * scale.rounds * (targets or routers) * (scale.seconds + WARM_S + ramp_s)


SCENARIOS = {
    "json": Scenario(throughput.json_requests, _rounds_s(None, 0)),
    "sse": Scenario(throughput.stream_chunks, _rounds_s(None, STREAM_S)),
    "ttft": Scenario(latency.first_tokens, _rounds_s(2, STREAM_S)),
    "prompt": Scenario(latency.long_prompts, _rounds_s(2, 0)),
    "memory": Scenario(memory.open_streams, lambda scale, _: START_S + 20 + scale.streams / 200 + scale.hold_s),
    "choosing": Scenario(choosing.choosing, lambda scale, _: scale.rounds * scale.choices / 10_000),
    "prefixes": Scenario(prefixes.prefixes, lambda scale, _: scale.rounds * 5 * (6 + scale.choices / 10_000)),
    "reports": Scenario(reports.reports, lambda scale, _: 2 * (START_S + 2 * scale.seconds + scale.children / 200)),
    "cancel": Scenario(cancel.cancels, lambda scale, _: 2 + scale.cancels / 100 + scale.leases / 250),
    "link": Scenario(link.links, link.seconds),
    "slow": Scenario(
        slow.slow_client, lambda scale, _: START_S + _rounds_s(2, STREAM_S + slow.SETTLE_S / 2, slow.ROUNDS)(scale, 0)
    ),
}


def bench(
    rounds: Annotated[int | None, typer.Option(min=1, help="interleaved rounds per measurement")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="length of one measurement")] = None,
    only: Annotated[str, typer.Option(help=f"scenarios to run, separated by commas: {', '.join(SCENARIOS)}")] = "",
    peer: Annotated[
        list[str] | None, typer.Option(help=f"also measure another router: {', '.join(PEERS)}; can be repeated")
    ] = None,
    streams: Annotated[int | None, typer.Option(min=1, help="streams open at once in `memory`")] = None,
    long: Annotated[bool, typer.Option("--long", help="observe the open streams for ten minutes")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="a very small run that only shows that the benchmark works")
    ] = False,
    interpreted: Annotated[bool, typer.Option("--interpreted", help="measure without compiling the data path")] = False,
    write: Annotated[
        bool | None,
        typer.Option(help="write docs/reference/benchmarks.md and its charts; default: only after a complete run"),
    ] = None,
) -> None:
    """Measure the router on this machine (CPU time, latency, memory, cancels), and nginx and other routers with it."""
    try:
        procfs.require_linux()
        names = _names("--only", only.split(",") if only else [], SCENARIOS) or list(SCENARIOS)
        peers = _names("--peer", peer or [], PEERS)
        scale = _scale(QUICK if quick else Scale(), rounds, seconds, streams, LONG_HOLD_S if long else None)
        procfs.raise_descriptor_limit()
        uvloop.run(_run(names, peers, scale, interpreted, write if write is not None else not (only or quick)))
    except HierarchyError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
    except TimeoutError:
        console.print("[red]error:[/] the run took much longer than expected; is the machine busy?", soft_wrap=True)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None


def _names(option: str, given: Sequence[str], known: Collection[str]) -> list[str]:
    names = [name.strip() for name in given]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name}: choose from {', '.join(known)}")
    return list(dict.fromkeys(names))


def _scale(scale: Scale, rounds: int | None, seconds: float | None, streams: int | None, hold_s: float | None) -> Scale:
    """The scale with the values that the user gave."""
    return dataclasses.replace(
        scale,
        rounds=rounds or scale.rounds,
        seconds=seconds or scale.seconds,
        streams=streams or scale.streams,
        hold_s=hold_s or scale.hold_s,
    )


async def _run(names: Sequence[str], peers: Sequence[str], scale: Scale, interpreted: bool, write: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    measured_build = build.INTERPRETED
    if not interpreted:
        with console.status("compiling the data path"):
            measured_build = build.compiled()
    routers = 2 + 2 * bool(find_nginx()) + 2 * measured_build.is_compiled + len(peers)
    expected_s = START_S + sum(SCENARIOS[name].seconds(scale, routers) for name in names)
    limit_s = 2 * expected_s + 60 + INSTALL_S * len(peers)
    console.print(f"[dim]about {expected_s / 60:.1f} minutes, at most {limit_s / 60:.0f}[/]")
    start = time.monotonic()
    result = Result()
    with TestBed(measured_build.home) as testbed, contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("starting"))
        benchmark = Benchmark(testbed, scale, peers, lambda text: status.update(escape(text)))
        if measured_build.obstacle:
            benchmark.add_note(f"the data path was interpreted: {measured_build.obstacle}")
        async with asyncio.timeout(limit_s):
            for name in names:
                found = await SCENARIOS[name].run(benchmark)
                result.rows += found.rows
                result.charts |= found.charts
                console.print(f"[dim]{name} finished after {time.monotonic() - start:.0f} s[/]")
    result.charts["overview.svg"] = plots.overview(result.rows)
    setting = page.Setting(scale, time.monotonic() - start, benchmark.measured_peers, measured_build.description)
    console.print()
    console.print(table.terminal(result.rows))
    for line in [*setting.lines(), *benchmark.notes]:
        console.print(f"[dim]{escape(line)}[/]", soft_wrap=True)
    if scale.seconds < 1:
        console.print("[yellow]the measurements were too short for meaningful figures[/]")
    if write:
        path = page.write(result.rows, benchmark.notes, result.charts, setting)
        console.print(f"written: {path.relative_to(ROOT)}")


def main() -> None:
    """Run `bench` with the arguments of the command line."""
    typer.run(bench)

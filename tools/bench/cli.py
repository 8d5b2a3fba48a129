"""The command line: what to run, for how long, and where the figures go."""

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
from rich.markup import escape as literally

from bench import build, page, plots, proc, table
from bench.bed import ROOT, Bed, find_nginx
from bench.peers import PEERS
from bench.scenarios import cancel, choosing, latency, link, memory, reports, slow, throughput
from bench.stage import QUICK, STREAM_S, WARM_S, Result, Scale, Stage
from hierarchy.errors import HierarchyError, UsageError

LONG_HOLD_S = 600.0
START_S = 8.0  # for the processes of a scenario to start
INSTALL_S = 300.0  # for one peer, the first time
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Scenario:
    """run: measures it. seconds: about how long that takes, given how many routers there are."""

    run: Callable[[Stage], Awaitable[Result]]
    seconds: Callable[[Scale, int], float]


def _of_rounds(targets: int | None, ramp_s: float, times: int = 1) -> Callable[[Scale, int], float]:
    return lambda scale, routers: times * scale.rounds * (targets or routers) * (scale.seconds + WARM_S + ramp_s)


SCENARIOS = {
    "json": Scenario(throughput.json_requests, _of_rounds(None, 0)),
    "sse": Scenario(throughput.stream_chunks, _of_rounds(None, STREAM_S)),
    "ttft": Scenario(latency.first_tokens, _of_rounds(2, STREAM_S)),
    "prompt": Scenario(latency.long_prompts, _of_rounds(2, 0)),
    "memory": Scenario(memory.open_streams, lambda scale, _: START_S + 20 + scale.streams / 200 + scale.hold_s),
    "choosing": Scenario(choosing.choosing, lambda scale, _: scale.rounds * scale.choices / 10_000),
    "reports": Scenario(reports.reports, lambda scale, _: 2 * (START_S + 2 * scale.seconds + scale.children / 200)),
    "cancel": Scenario(cancel.cancels, lambda scale, _: 2 + scale.cancels / 100 + scale.leases / 250),
    "link": Scenario(link.links, link.seconds),
    "slow": Scenario(
        slow.slow_client, lambda scale, _: START_S + _of_rounds(2, STREAM_S + slow.SETTLE_S / 2, slow.ROUNDS)(scale, 0)
    ),
}


def bench(
    rounds: Annotated[int | None, typer.Option(min=1, help="interleaved rounds of each measurement")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="length of one measurement")] = None,
    only: Annotated[str, typer.Option(help=f"some of {', '.join(SCENARIOS)}, with commas between")] = "",
    peer: Annotated[list[str] | None, typer.Option(help=f"measure beside: {', '.join(PEERS)}; may be repeated")] = None,
    streams: Annotated[int | None, typer.Option(min=1, help="open at once in `memory`")] = None,
    long: Annotated[bool, typer.Option("--long", help="watch the open streams for ten minutes")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="everything very small: shows that it runs, no more")] = False,
    interpreted: Annotated[bool, typer.Option("--interpreted", help="measure without compiling")] = False,
    write: Annotated[
        bool | None,
        typer.Option(help="write docs/reference/benchmarks.md and its charts; default: if everything was run"),
    ] = None,
) -> None:
    """Measure the router on this machine: CPU, latency, memory, cancels, beside nginx and other routers."""
    try:
        proc.require_linux()
        names = _names("--only", only.split(",") if only else [], SCENARIOS) or list(SCENARIOS)
        peers = _names("--peer", peer or [], PEERS)
        scale = _scale(QUICK if quick else Scale(), rounds, seconds, streams, LONG_HOLD_S if long else None)
        proc.raise_descriptor_limit()
        uvloop.run(_run(names, peers, scale, interpreted, write if write is not None else not (only or quick)))
    except HierarchyError as error:
        console.print(f"[red]error:[/] {literally(str(error))}", soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
    except TimeoutError:
        console.print("[red]error:[/] it took far longer than it should; is the machine busy?", soft_wrap=True)
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
    """The scale with what the user gave in place of its own."""
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
    made = build.INTERPRETED
    if not interpreted:
        with console.status("compiling the data path"):
            made = build.compiled()
    routers = 2 + 2 * bool(find_nginx()) + 2 * made.is_compiled + len(peers)
    expected_s = START_S + sum(SCENARIOS[name].seconds(scale, routers) for name in names)
    limit_s = 2 * expected_s + 60 + INSTALL_S * len(peers)
    console.print(f"[dim]about {expected_s / 60:.1f} minutes, at most {limit_s / 60:.0f}[/]")
    began = time.monotonic()
    result = Result()
    with Bed(made.home) as bed, contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("starting"))
        stage = Stage(bed, scale, peers, lambda text: status.update(literally(text)))
        if made.obstacle:
            stage.note(f"the data path was interpreted: {made.obstacle}")
        async with asyncio.timeout(limit_s):
            for name in names:
                found = await SCENARIOS[name].run(stage)
                result.rows += found.rows
                result.charts |= found.charts
                console.print(f"[dim]{name} done after {time.monotonic() - began:.0f} s[/]")
    result.charts["overview.svg"] = plots.overview(result.rows)
    setting = page.Setting(scale, time.monotonic() - began, stage.measured_peers, made.said)
    console.print()
    console.print(table.terminal(result.rows))
    for line in [*setting.lines(), *stage.notes]:
        console.print(f"[dim]{literally(line)}[/]", soft_wrap=True)
    if scale.seconds < 1:
        console.print("[yellow]measured for so short a time, these figures mean nothing[/]")
    if write:
        path = page.write(result.rows, stage.notes, result.charts, setting)
        console.print(f"written: {path.relative_to(ROOT)}")


def main() -> None:
    """Run `bench` on the command line's arguments."""
    typer.run(bench)

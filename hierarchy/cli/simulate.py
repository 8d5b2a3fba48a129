"""`hierarchy simulate TREE`: what this tree would do under a load, before the hardware is bought."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierarchy.cli import flags
from hierarchy.cli.output import print_json
from hierarchy.errors import UsageError

if TYPE_CHECKING:
    from hierarchy.simulation.load import Load
    from hierarchy.simulation.measures import Result
    from hierarchy.simulation.run import Scenario
    from hierarchy.topology.declared import DeclaredTree

MAX_CHATS = 10_000_000


def simulate(
    tree: Annotated[Path, typer.Argument(metavar="TREE", help="YAML file of a tree.", show_default=False)],
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Recorded load: Mooncake's, Azure's, BurstGPT's or ShareGPT's.")
    ] = None,
    chats: Annotated[
        int | None,
        typer.Option(metavar="N", help="Generated load: so many conversations of chats, agents and documents."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="R", help="Requests a second that all clients send; default for a trace: its own times."),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(metavar="N", help="Instead of --rate: so many conversations at a time, so the tree is saturated."),
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="NAMES", help="Policies to compare, such as shortest_queue,p2c.")
    ] = "declared",
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help="The only model that clients request.", show_default="all, by speed"),
    ] = "",
    lose: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME@SECONDS", help="Lose a node or engine then; repeat the flag for several."),
    ] = None,
    round_trip: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MS", help="Round trip to the parents of a node or engine; repeat it for several."),
    ] = None,
    slots: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that an engine runs at once.")] = 32,
    prefill: Annotated[
        float, typer.Option("--prefill-tokens-per-s", metavar="N", help="Prompt tokens that an engine reads.")
    ] = 8000.0,
    decode: Annotated[
        float, typer.Option("--decode-tokens-per-s", metavar="N", help="Tokens that an engine writes, per request.")
    ] = 50.0,
    cache_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens in an engine's KV memory, running requests included.")
    ] = 400_000,
    block_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens that are cached together.")] = 16,
    chunk_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompt tokens read between two tokens of each response.")
    ] = 2048,
    warm_up: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="What is not counted at the beginning.", show_default="until it is steady"
        ),
    ] = None,
    shared_start: Annotated[
        int, typer.Option(metavar="TOKENS", min=0, help="Generated load: every prompt begins with the same tokens.")
    ] = 0,
    hot_document: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="Generated load: from then on a third of all that begins is about one text."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same load and the same result.")] = 1,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the results over time.")] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Simulate a tree under a load: time to first token, hit rate of the prefix caches, busy engines.

    Nodes decide as running ones do: the simulation uses their own code. Engines are slots, rates and a cache. The file
    has the rates of `kind: simulated` engines; of all others the flags have them, at speed 2 twice as much.
    """
    from hierarchy.simulation.run import Scenario
    from hierarchy.simulation.run import simulate as run
    from hierarchy.simulation.tree import Hardware
    from hierarchy.topology.declared import read_tree

    policies = _policies(policy)
    hardware = Hardware(
        slots,
        _positive("--prefill-tokens-per-s", prefill),
        _positive("--decode-tokens-per-s", decode),
        cache_tokens,
        block_tokens,
        chunk_tokens,
    )
    losses = tuple(_pair("--lose", one, "@", "site-a@60") for one in lose or ())
    trips = [_pair("--round-trip", one, "=", "site-a=20") for one in round_trip or ()]
    load = _load(trace, chats, rate, clients, seed, shared_start, hot_document)
    declared = read_tree(tree)
    _check_names(declared, [name for name, _ in (*losses, *trips)])
    scenario = Scenario(
        tree=declared,
        load=load,
        hardware=hardware,
        seed=seed,
        model=model,
        round_trips_s={name: ms / 1000 for name, ms in trips},
        losses=losses,
        marks=() if hot_document is None else (("hot document", hot_document),),
        warm_up_s=warm_up,
    )
    results = []
    for one in policies:
        with _progress(one) as advance:
            results.append(run(scenario, one, advance))
    if plot is not None:
        _draw(plot, results, scenario)
    if as_json:
        print_json([_page(result) for result in results])
    else:
        from hierarchy.cli.simulation_tables import show

        show(results, [*scenario.lost, *scenario.marks])


# -- what the flags mean -----------------------------------------------------------------------------------------------


def _load(
    trace: Path | None,
    chats: int | None,
    rate: float | None,
    clients: int | None,
    seed: int,
    shared_start: int,
    hot: float | None,
) -> Callable[[], Load]:
    """What makes the load. Raises `UsageError`."""
    from hierarchy.simulation.traces.read import read_trace

    if (trace is None) == (chats is None):
        raise UsageError("write either --trace FILE or --chats N: a recorded load, or one that is made")
    if rate is not None:
        _positive("--rate", rate)
    if trace is None:
        return _generated(chats or 0, rate, clients, seed, shared_start, hot)
    if shared_start or hot is not None or clients is not None:
        raise UsageError("--clients, --shared-start and --hot-document are for --chats; a trace has its own prompts")
    return read_trace(trace, rate, seed)


def _generated(
    chats: int, rate: float | None, clients: int | None, seed: int, shared_start: int, hot: float | None
) -> Callable[[], Load]:
    """What makes such a load. Raises `UsageError`."""
    from hierarchy.simulation.load import generated

    if rate is None and clients is None:
        raise UsageError(
            "--chats: add --rate with the requests a second of all clients, or --clients with their number"
        )
    if rate is not None and clients is not None:
        raise UsageError("write either --rate or --clients: so many requests a second, or what the tree can serve")
    for flag, count in (("--chats", chats), ("--clients", 1 if clients is None else clients)):
        if not 1 <= count <= MAX_CHATS:
            raise UsageError(f"{flag} {count}: write a number from 1 to {MAX_CHATS}")
    hot_at_s = math.inf if hot is None else hot
    return lambda: generated(
        seed, chats, rate or 0.0, clients=clients or 0, shared_start=shared_start, hot_at_s=hot_at_s
    )


def _positive(flag: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{flag} {value:g}: write a number above 0")
    return value


def _policies(names: str) -> list[str]:
    """The policies to compare, each once. Raises `UsageError`."""
    from hierarchy.config.yaml import closest
    from hierarchy.simulation.run import known_policies

    known = known_policies()
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name not in known:
            raise UsageError(f"--policy {name}: no such policy; {closest(name, known)}")
    if not found:
        raise UsageError(f"--policy: names none; choose among {', '.join(known)}")
    return found


def _pair(flag: str, text: str, sign: str, example: str) -> tuple[str, float]:
    """`NAME@SECONDS`, or whatever is between. Raises `UsageError`."""
    name, _, number = text.rpartition(sign)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value < math.inf:
        raise UsageError(f"{flag} {text}: write a name, {sign!r} and a number, such as {example}")
    return name, value


def _check_names(tree: DeclaredTree, names: list[str]) -> None:
    from hierarchy.config.yaml import closest

    for name in names:
        if name not in tree.graph.members:
            raise UsageError(f'{tree.source.file}: no node or engine "{name}"; {closest(name, tree.graph.members)}')


# -- what is shown -----------------------------------------------------------------------------------------------------


@contextmanager
def _progress(policy: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(policy, total=None)
        yield lambda begun, total: progress.update(task, completed=begun, total=total)


def _page(result: Result) -> dict[str, Any]:
    """A result for programs."""
    page = result._asdict()
    for name in ("ttft", "wait"):
        page[f"{name}_s"] = page.pop(name)._asdict()
    for name in ("models", "phases", "moments"):
        page[name] = [{**row._asdict(), "ttft": row.ttft._asdict()} for row in page[name]]
    return page


def _draw(file: Path, results: Sequence[Result], scenario: Scenario) -> None:
    from hierarchy.simulation.plot import svg

    try:
        file.write_text(svg(results, [*scenario.lost, *scenario.marks]), "utf-8")
    except OSError as error:
        raise UsageError(f"--plot {file}: cannot be written ({error.strerror}); check its folder") from None

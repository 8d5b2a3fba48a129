"""What routing by prefix reaches, in simulations: `python tools/simulated_figures.py` prints the table of the docs.

Each row is measured with several seeds, and the table has the medians. Nothing was tuned on the seeds 101 to 103.
`--quick` takes smaller trees, shorter times and one seed: two minutes, to see whether a change has broken something.
Results are kept in a file, so that what was interrupted goes on where it was. A compiled copy takes half of the time:
`python tools/compiled.py build/compiled --whole`, then run it there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hierarchy.simulation.load import Load, generated  # noqa: E402  # the sources here, whatever is installed
from hierarchy.simulation.prompt import Prompt  # noqa: E402
from hierarchy.simulation.request import Conversation, Turn  # noqa: E402
from hierarchy.simulation.run import Scenario, simulate  # noqa: E402
from hierarchy.simulation.tree import Hardware  # noqa: E402
from hierarchy.topology.declared import DeclaredTree, read_tree  # noqa: E402

SEEDS: Final = (101, 102, 103)
TURNS: Final = 5.2  # of a conversation, on average
#: Conversations at a time for each engine: more than it can serve. They all begin anew at first, so it takes a whole
#: conversation until the load is what it will be; by load alone that takes twice as long.
CLIENTS: Final = 96
SPEEDS: Final = (1, 2, 4)
ANSWER, QUESTION = 150, 100  # tokens of a response, on average, and of a prompt, in that row


class Shape(NamedTuple):
    """A tree of up to three levels of nodes above its engines."""

    sites: int  #: 0: the roots have the engines
    racks: int  #: of each site; 0: the sites have the engines
    engines: int  #: of each node at the bottom
    roots: int = 1
    speeds: tuple[int, ...] = (1,)

    @property
    def size(self) -> int:
        return max(1, self.sites) * max(1, self.racks) * self.engines

    def text(self) -> str:
        """As a configuration."""
        nodes: list[str] = []
        for root in range(self.roots):
            other = ", replica_of: root" if root else ""
            nodes.append(f'  root{root or ""}: {{listen: "localhost:{20000 + root}"{other}}}')
        bottom = []
        for site in range(self.sites):
            nodes.append(f'  s{site}: {{parent: root, listen: "localhost:{20100 + site}"}}')
            racks = [f"s{site}-r{rack}" for rack in range(self.racks)]
            for rack, name in enumerate(racks):
                nodes.append(f'  {name}: {{parent: s{site}, listen: "localhost:{21000 + 100 * site + rack}"}}')
            bottom += racks or [f"s{site}"]
        below: list[str] = []
        for place, parent in enumerate(bottom or ["root"]):
            for n in range(self.engines):
                speed, url = self.speeds[len(below) % len(self.speeds)], f"http://10.0.{place}.{n + 1}:8000"
                below.append(
                    f'  {parent}-e{n}: {{parent: {parent}, kind: vllm, speed: {speed}, url: "{url}", models: [m]}}'
                )
        return "\n".join(["version: 1", "nodes:", *nodes, "engines:", *below, ""])

    def tree(self) -> DeclaredTree:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tree.yaml")
            file.write_text(self.text(), "utf-8")
            return read_tree(file)


class Run(NamedTuple):
    """One simulation. Times in seconds, rates per engine."""

    shape: Shape
    rate: float
    warm_up_s: float
    end_s: float
    shared_start: int = 0  #: tokens
    hot_at_s: float | None = None
    lost_at_s: float | None = None  #: the first site
    slots: int = 0  #: of each engine; then prompts share nothing, and `rate` is the part of the slots that is in use
    clients: int = 0  #: of each engine, instead of the rate
    chats: int = 0  #: of each engine, then

    def scenario(self, seed: int) -> Scenario:
        """What is simulated."""
        if self.slots:
            hardware = Hardware(slots=self.slots)
            return Scenario(self.shape.tree(), self._unlike(seed), hardware, seed, warm_up_s=self.warm_up_s)
        return Scenario(
            self.shape.tree(),
            lambda: self._chats(seed),
            seed=seed,
            losses=() if self.lost_at_s is None else (("s0", self.lost_at_s),),
            marks=() if self.hot_at_s is None else (("hot", self.hot_at_s),),
            warm_up_s=self.warm_up_s,
        )

    def _chats(self, seed: int) -> Load:
        size, hot_at_s = self.shape.size, float("inf") if self.hot_at_s is None else self.hot_at_s
        if self.clients:
            return generated(seed, size * self.chats, clients=size * self.clients)
        rate = self.rate * size
        chats = round(self.end_s * rate / TURNS)
        return generated(seed, chats, rate, shared_start=self.shared_start, hot_at_s=hot_at_s)

    def _unlike(self, seed: int) -> Callable[[], Load]:
        """Prompts that share nothing, so many that `rate` of all slots are in use."""
        speeds = [self.shape.speeds[n % len(self.shape.speeds)] for n in range(self.shape.size)]
        usual = Hardware()
        each_s = ANSWER / usual.decode_tokens_per_s + QUESTION / usual.prefill_tokens_per_s
        rate = self.rate * self.slots * sum(speeds) / each_s

        def conversations() -> Iterator[Conversation]:
            rng, now = Random(seed), 0.0
            for number in range(round(self.end_s * rate)):
                now += rng.expovariate(rate)
                prompt = Prompt().then(number, QUESTION)
                answer = max(1, round(rng.expovariate(1 / ANSWER)))
                yield Conversation(now, 0, iter([Turn(0.0, prompt, answer, prompt)]))

        return lambda: Load(conversations(), round(self.end_s * rate), self.warm_up_s, 0.0, is_cut=True)


class Plan(NamedTuple):
    """What is run: for each row, its simulations and the policies."""

    seeds: tuple[int, ...]
    runs: dict[str, tuple[Run, tuple[str, ...]]]


BOTH: Final = ("prefix", "central")
LOADS: Final = ("shortest_queue", "p2c", "central_queue")
FULL: Final = {
    "100 engines": (Run(Shape(4, 5, 5), 4.0, 150, 200), BOTH),
    "first block": (Run(Shape(4, 5, 5), 4.5, 150, 220, shared_start=64), ("prefix",)),
    "four entries": (Run(Shape(4, 5, 5, roots=4), 4.0, 150, 200), ("prefix",)),
    "hot document": (Run(Shape(4, 5, 5), 4.0, 150, 195, hot_at_s=180), ("prefix",)),
    "a quarter lost": (Run(Shape(4, 5, 5), 3.0, 100, 200, lost_at_s=130), ("prefix",)),
    "unequal speeds": (Run(Shape(4, 5, 5, speeds=SPEEDS), 0.9, 15, 40, slots=24), ("prefix", "shortest_queue")),
    "saturated": (Run(Shape(4, 5, 5), 0.0, 150, 0, clients=CLIENTS, chats=300), BOTH),
    "saturated by load": (Run(Shape(4, 5, 5), 0.0, 300, 0, clients=CLIENTS, chats=320), ("shortest_queue",)),
    "p2c, one root": (Run(Shape(8, 0, 8), 0.9, 15, 90, slots=8), LOADS),
    "p2c, four roots": (Run(Shape(8, 0, 8, roots=4), 0.9, 15, 90, slots=8), LOADS),
    "p2c, four replicas": (Run(Shape(0, 0, 32, roots=4), 0.9, 15, 120, slots=8), LOADS),
    "p2c, sixteen replicas": (Run(Shape(0, 0, 32, roots=16), 0.9, 15, 120, slots=8), LOADS),
    "1,000 engines": (Run(Shape(10, 10, 10), 3.0, 100, 130), BOTH),
}
QUICK: Final = {
    "30 engines": (Run(Shape(2, 3, 5), 4.0, 90, 150), BOTH),
    "four entries": (Run(Shape(2, 3, 5, roots=4), 4.0, 90, 150), ("prefix",)),
    "saturated": (Run(Shape(2, 2, 5), 0.0, 150, 0, clients=CLIENTS, chats=300), BOTH),
    "saturated by load": (Run(Shape(2, 2, 5), 0.0, 300, 0, clients=CLIENTS, chats=220), ("shortest_queue",)),
    "first block": (Run(Shape(2, 3, 5), 4.5, 90, 150, shared_start=64), ("prefix",)),
    "hot document": (Run(Shape(2, 3, 5), 4.0, 90, 150, hot_at_s=120), ("prefix",)),
    "a quarter lost": (Run(Shape(4, 2, 4), 3.0, 90, 170, lost_at_s=100), ("prefix",)),
    "unequal speeds": (Run(Shape(4, 5, 5, speeds=SPEEDS), 0.9, 10, 20, slots=24), ("prefix",)),
}


def measure(run: Run, policy: str, seed: int) -> dict[str, float]:
    """The figures of one simulation."""
    began = time.process_time()
    result = simulate(run.scenario(seed), policy)
    figures = {
        "requests": result.requests,
        "failed": result.failed,
        "hit_rate": result.hit_rate,
        "ttft_mean": result.ttft.mean,
        "ttft_p50": result.ttft.p50,
        "ttft_p99": result.ttft.p99,
        "wait_mean": result.wait.mean,
        "wait_p99": result.wait.p99,
        "requests_per_s": result.requests_per_s,
        "busy": result.busy,
        "busy_least": result.busy_least,
        "busy_most": result.busy_most,
        "idle": result.idle_while_waiting,
        "cpu_s": time.process_time() - began,
    }
    phases = {phase.name: phase for phase in result.phases}
    if run.hot_at_s is not None:
        figures |= {"before_p99": phases["before"].ttft.p99, "hot_p99": phases["hot"].ttft.p99}
    if run.lost_at_s is not None:
        figures |= _recovery(run, result)
    return figures


def _recovery(run: Run, result: Any) -> dict[str, float]:
    """When the hit rate is that of the rest again, nearly, and what it fell to."""
    lost_at_s = run.lost_at_s or 0.0
    after = [moment for moment in result.moments if moment.at_s >= lost_at_s]
    rest = [moment for moment in after if moment.at_s >= lost_at_s + 40]
    can_have = sum(moment.hit_rate * moment.requests for moment in rest) / sum(moment.requests for moment in rest)
    width = result.simulated_s / len(result.moments)
    low = [moment.at_s + width - lost_at_s for moment in after if moment.hit_rate < 0.95 * can_have]
    return {"recovered_s": max(low, default=0.0), "fell_to": min(m.hit_rate for m in after), "can_have": can_have}


# -- the table ---------------------------------------------------------------------------------------------------------

Found = dict[str, dict[str, list[dict[str, float]]]]  # by row, then by policy: figures of each seed


def rows(found: Found) -> list[tuple[str, str, str, str]]:
    """What was measured, the medians, and what is to be reached."""
    table: list[tuple[str, str, str, str]] = []
    for name in ("30 engines", "100 engines", "1,000 engines"):
        if name in found:
            table += _steady(name, found[name])
    if "saturated" in found:
        saturated = found["saturated"] | found.get("saturated by load", {})
        most = {policy: _of(saturated[policy], "requests_per_s") for policy in saturated}
        text = f"{most['prefix']:.2f} requests/s per engine"
        for other, least in (("central", 0.95), ("shortest_queue", 2.5)):
            if other not in saturated:
                continue
            ratio = _ratio(saturated, "requests_per_s", other)
            table.append(
                (f"saturated, beside `{other}`", f"{text}, {most[other]:.2f}", f"{ratio:.2f} ×", f"≥ {least} ×")
            )
    steady = next((found[name] for name in ("100 engines", "30 engines") if name in found), None)
    if "four entries" in found and steady is not None:
        four, one = found["four entries"]["prefix"], steady["prefix"]
        ratio = median(a["hit_rate"] / b["hit_rate"] for a, b in zip(four, one, strict=True))
        text = f"{_of(four, 'hit_rate'):.1%}, {_of(one, 'hit_rate'):.1%}; TTFT {_times(four)}"
        table.append(("four entries: hit rate beside one", text, f"{ratio:.3f} ×", "≥ 0.97 ×"))
    if "first block" in found:
        trap = found["first block"]["prefix"]
        ratio = median(one["busy_least"] / one["busy"] for one in trap)
        text = f"{_of(trap, 'busy_least'):.1%} of its slots, {_of(trap, 'busy'):.1%}; TTFT {_times(trap)}"
        what = "all prompts share 256 bytes: the idlest engine beside the mean"
        table.append((what, text, f"{ratio:.2f} ×", "≥ 0.8 ×"))
    if "hot document" in found:
        hot = found["hot document"]["prefix"]
        ratio = median(one["hot_p99"] / one["before_p99"] for one in hot)
        text = f"{_of(hot, 'hot_p99'):.2f} s, {_of(hot, 'before_p99'):.2f} s"
        table.append(("a hot document: TTFT, 99 %, in the next 10 s beside before", text, f"{ratio:.2f} ×", "≤ 1.5 ×"))
    if "a quarter lost" in found:
        lost = found["a quarter lost"]["prefix"]
        text = f"from {_of(lost, 'fell_to'):.1%} to 0.95 of {_of(lost, 'can_have'):.1%}"
        table.append(("a quarter of the engines lost: hit rate", text, f"{_of(lost, 'recovered_s'):.0f} s", "≤ 30 s"))
    if "unequal speeds" in found:
        speeds = found["unequal speeds"]["prefix"]
        what = "engines 1 ×, 2 ×, 4 × as fast per slot, 90 %"
        table.append((f"{what}: wait for a slot, 99 %", "", f"{_of(speeds, 'wait_p99') * 1000:.1f} ms", "< 1 ms"))
        table.append((f"{what}: idle while others wait", "", f"{_of(speeds, 'idle'):.3%}", "< 0.1 %"))
    for name, row in found.items():
        if name.startswith("p2c"):
            for policy, figures in row.items():
                text = f"{_of(figures, 'wait_mean') * 1000:.0f} ms, 99 % {_of(figures, 'wait_p99'):.2f} s"
                table.append((f"{name[5:]}, {policy}: wait for a slot", text, "", ""))
    return table


def _steady(name: str, row: dict[str, list[dict[str, float]]]) -> list[tuple[str, str, str, str]]:
    prefix, central = row["prefix"], row["central"]
    hits = f"{_of(prefix, 'hit_rate'):.1%}, {_of(central, 'hit_rate'):.1%}"
    found = [(f"{name}: hit rate beside `central`", hits, f"{_ratio(row, 'hit_rate', 'central'):.3f} ×", "≥ 0.97 ×")]
    for field, what, most in (("ttft_mean", "mean", 1.15), ("ttft_p99", "99 %", 1.2)):
        text = f"{_of(prefix, field):.3f} s, {_of(central, field):.3f} s"
        ratio = _ratio(row, field, "central")
        found.append((f"{name}: TTFT, {what}, beside `central`", text, f"{ratio:.2f} ×", f"≤ {most} ×"))
    return found


def _of(figures: list[dict[str, float]], field: str) -> float:
    return median(one[field] for one in figures)


def _ratio(row: dict[str, list[dict[str, float]]], field: str, other: str) -> float:
    """The median of the ratios: both policies had the same load with each seed."""
    return median(a[field] / b[field] for a, b in zip(row["prefix"], row[other], strict=True))


def _times(figures: list[dict[str, float]]) -> str:
    return f"{_of(figures, 'ttft_mean'):.3f} s, 99 % {_of(figures, 'ttft_p99'):.2f} s"


def show(found: Found, seeds: tuple[int, ...]) -> str:
    """The table, in Markdown."""
    lines = [f"Medians of the seeds {', '.join(map(str, seeds))}", "", "| what | measured | result | reach |"]
    lines.append("|---|---|---|---|")
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows(found))])


# -- running it --------------------------------------------------------------------------------------------------------


def collect(plan: Plan, names: list[str], kept: Path | None) -> Found:
    """Run what is not in the file yet."""
    known: dict[str, dict[str, float]] = {}
    if kept is not None and kept.exists():
        known = {line["key"]: line["figures"] for line in map(json.loads, kept.read_text("utf-8").splitlines())}
    found: Found = {}
    for seed in plan.seeds:
        for name in names:
            run, policies = plan.runs[name]
            for policy in policies:
                key = repr((run, policy, seed))
                if key not in known:
                    known[key] = measure(run, policy, seed)
                    print(f"{name}, {policy}, seed {seed}: {_line(known[key])}", file=sys.stderr, flush=True)
                    if kept is not None:
                        with kept.open("a", encoding="utf-8") as file:
                            file.write(json.dumps({"key": key, "figures": known[key]}) + "\n")
                found.setdefault(name, {}).setdefault(policy, []).append(known[key])
    return found


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate what routing by prefix reaches, and print a table.")
    parser.add_argument("--quick", action="store_true", help="small trees, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 101 102 103, of --quick 101")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"of {', '.join(FULL)}; default: all")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep results here, and take those that it has")
    args = parser.parse_args()
    runs = QUICK if args.quick else FULL
    names = args.rows or list(runs)
    unknown = [name for name in names if name not in runs]
    if unknown:
        parser.error(f"--rows {unknown[0]}: write some of {', '.join(runs)}")
    seeds = tuple(args.seeds or (SEEDS[:1] if args.quick else SEEDS))
    print(show(collect(Plan(seeds, runs), names, args.results), seeds))


if __name__ == "__main__":
    main()

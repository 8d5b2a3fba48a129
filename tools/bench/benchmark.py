"""What the scenarios share: the scale of a run, the processes that most scenarios measure, and the measurement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bench import peers, procfs
from bench.load import Load, Sample
from bench.table import Row
from bench.testbed import ROOT, BenchError, Process, Target, TestBed, direct

WARM_S = 0.5  # from the start of the load to the measurement
STREAM_S = 1.28  # 128 chunks, 10 ms apart: the engines' default


@dataclass(frozen=True)
class Scale:
    """The size of a run."""

    rounds: int = 5
    seconds: float = 5.0  # length of one measurement
    streams: int = 9000  # open at once, in `memory`
    hold_s: float = 60.0  # how long these streams are observed
    cancels: int = 500  # timed cancels
    leases: int = 10_000  # cancels before leases are counted
    children: int = 1000  # children that report
    slow: int = 20  # slow clients, when memory is measured
    choices: int = 20_000  # by each policy
    burst: int = 1000  # requests at once on a cold link
    linked: int = 200  # children behind reverse links


QUICK = Scale(
    rounds=1, seconds=0.5, streams=100, hold_s=5.0, cancels=20, leases=100, children=50, slow=4, choices=1000,
    burst=50, linked=10,
)  # fmt: skip


@dataclass
class Result:
    """What a scenario measured."""

    rows: list[Row] = field(default_factory=list)
    #: file name → SVG
    charts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    sample: Sample
    #: CPU time of each of the target's processes, with its descendants
    cpu_s: tuple[float, ...]

    @property
    def us_per_response(self) -> float:
        """CPU time of all the target's processes per response."""
        return 1e6 * sum(self.cpu_s) / max(1, self.sample.responses)

    @property
    def us_per_chunk(self) -> float:
        """CPU time of all the target's processes per SSE event."""
        return 1e6 * sum(self.cpu_s) / max(1, self.sample.chunks)


@dataclass(frozen=True)
class Common:
    """Two engines and all routers in front of them."""

    engines: tuple[Process, ...]
    direct: Target
    nginx: Target | None
    one: Target
    three: Target
    peers: tuple[Target, ...]
    references: tuple[Target, ...]  # for comparison: a chain of nginx, interpreted nodes

    @property
    def routers(self) -> list[Target]:
        """All of them, in the order of the tables."""
        return [*([self.nginx] if self.nginx else []), self.one, self.three, *self.peers, *self.references]


class Benchmark:
    """One run. progress: shows the user what is being measured."""

    def __init__(
        self, testbed: TestBed, scale: Scale, peer_names: Sequence[str], progress: Callable[[str], None]
    ) -> None:
        self.testbed = testbed
        self.scale = scale
        self.notes: list[str] = []  # what a reader of the figures has to know
        self.progress = progress
        self._peer_names = peer_names
        self._common: Common | None = None

    async def common(self) -> Common:
        """The processes that most scenarios measure. Started at the first call."""
        if self._common is None:
            testbed = self.testbed
            engines = (testbed.engine(), testbed.engine())
            one, three, nginx = testbed.one_level(engines), testbed.three_levels(engines), testbed.nginx(engines)
            if nginx is None:
                self.add_note("nginx is not installed, so there are no ratios (Debian: apt install nginx-light)")
            self.progress("starting engines, nodes and nginx")
            chain = testbed.three_nginx(engines)
            references = [chain] if chain else []
            if testbed.home != ROOT:
                plain = "hierarchy, interpreted"
                references += [testbed.one_level(engines, plain, ROOT), testbed.three_levels(engines, plain, ROOT)]
            await testbed.ready([direct(engines), one, three, *([nginx] if nginx else []), *references])
            others = [found for name in self._peer_names if (found := await self._peer(name, engines))]
            self._common = Common(engines, direct(engines), nginx, one, three, tuple(others), tuple(references))
        return self._common

    async def _peer(self, name: str, engines: Sequence[Process]) -> Target | None:
        self.progress(f"installing and starting {name}")
        try:
            return await peers.start(self.testbed, peers.PEERS[name], engines)
        except BenchError as error:
            self.add_note(f"{name} was not measured: {error}")
            return None

    @property
    def measured_peers(self) -> list[str]:
        """Names of the peers that could be installed and started."""
        return [peer.name for peer in self._common.peers] if self._common else []

    def add_note(self, text: str) -> None:
        """Add a note, unless it is already there."""
        if text not in self.notes:
            self.notes.append(text)

    async def measure(
        self, target: Target, request: Callable[[str], bytes], count: int, *, over_s: float = 0.0
    ) -> Measured:
        """Load the target with `count` clients, and measure `scale.seconds` while all are busy.

        request: makes a request for a URL. over_s: the time over which the clients start.
        """
        async with Load(target.urls, request, count, over_s=over_s) as load:
            await asyncio.sleep(WARM_S + over_s)
            families = [procfs.family([process.pid]) for process in target.processes]
            before = [procfs.cpu_s(pids) for pids in families]
            sample = load.new_sample()
            await asyncio.sleep(self.scale.seconds)
            after = [procfs.cpu_s(pids) for pids in families]
            load.new_sample()
        if sample.errors:
            errors = ", ".join(f"{times} × {error}" for error, times in sample.errors.items())
            self.add_note(f"{target.name}: of {sample.responses} requests, these failed: {errors}")
        return Measured(sample, tuple(b - a for a, b in zip(before, after, strict=True)))

    async def rounds(
        self, what: str, targets: Sequence[Target], once: Callable[[Target], Awaitable[Measured]]
    ) -> dict[str, list[Measured]]:
        """Measure each target once per round; each round starts with another one. Returns name → results by round."""
        found: dict[str, list[Measured]] = {target.name: [] for target in targets}
        for number in range(self.scale.rounds):
            self.progress(f"{what}: round {number + 1} of {self.scale.rounds}")
            turn = number % len(targets)
            for target in [*targets[turn:], *targets[:turn]]:
                found[target.name].append(await once(target))
        return found

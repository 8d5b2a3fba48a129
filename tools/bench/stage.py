"""What the scenarios share: how large everything is, the processes that most of them measure, and how to measure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bench import peers, proc
from bench.bed import ROOT, Bed, BedError, Process, Target, direct
from bench.load import Load, Sample
from bench.table import Row

WARM_S = 0.5
STREAM_S = 1.28  # 128 chunks, 10 ms apart: the engines' default


@dataclass(frozen=True)
class Scale:
    """How much of everything. Times in seconds."""

    rounds: int = 5
    seconds: float = 5.0  # of one measurement
    streams: int = 9000  # open at once
    hold_s: float = 60.0  # for which they are watched
    cancels: int = 500  # that are timed
    leases: int = 10_000  # cancels after which leases are counted
    children: int = 1000  # that report
    slow: int = 20  # slow clients whose memory is measured
    choices: int = 20_000
    burst: int = 1000  # requests at once on a cold link
    linked: int = 200  # children behind reverse links


QUICK = Scale(
    rounds=1, seconds=0.5, streams=100, hold_s=5.0, cancels=20, leases=100, children=50, slow=4, choices=1000,
    burst=50, linked=10,
)  # fmt: skip


@dataclass
class Result:
    """What a scenario found. charts: file name → SVG."""

    rows: list[Row] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One measurement. cpu_s: of each of the target's processes, with what it started."""

    sample: Sample
    cpu_s: tuple[float, ...]

    @property
    def us_per_answer(self) -> float:
        """CPU of all the target's processes for one answer."""
        return 1e6 * sum(self.cpu_s) / max(1, self.sample.answers)

    @property
    def us_per_chunk(self) -> float:
        """CPU of all the target's processes for one SSE event."""
        return 1e6 * sum(self.cpu_s) / max(1, self.sample.chunks)


@dataclass(frozen=True)
class Common:
    """Two engines, with every router in front of them."""

    engines: tuple[Process, ...]
    direct: Target
    nginx: Target | None
    one: Target
    three: Target
    peers: tuple[Target, ...]
    context: tuple[Target, ...]  # what tells how much of a figure is whose: a chain of nginx, interpreted nodes

    @property
    def routers(self) -> list[Target]:
        return [*([self.nginx] if self.nginx else []), self.one, self.three, *self.peers, *self.context]


class Stage:
    """One run. notes: what a reader of the figures has to know; say: tell the user what goes on."""

    def __init__(self, bed: Bed, scale: Scale, peer_names: Sequence[str], say: Callable[[str], None]) -> None:
        self.bed = bed
        self.scale = scale
        self.notes: list[str] = []
        self.say = say
        self._peer_names = peer_names
        self._common: Common | None = None

    async def common(self) -> Common:
        """The processes of most scenarios, started when the first one asks."""
        if self._common is None:
            bed = self.bed
            engines = (bed.worker(), bed.worker())
            one, three, nginx = bed.one_level(engines), bed.three_levels(engines), bed.nginx(engines)
            if nginx is None:
                self.note("nginx is not on this machine: there are no ratios (Debian: apt install nginx-light)")
            self.say("starting engines, nodes and nginx")
            chain = bed.three_nginx(engines)
            context = [chain] if chain else []
            if bed.home != ROOT:
                plain = "hierarchy, interpreted"
                context += [bed.one_level(engines, plain, ROOT), bed.three_levels(engines, plain, ROOT)]
            await bed.ready([direct(engines), one, three, *([nginx] if nginx else []), *context])
            others = [found for name in self._peer_names if (found := await self._peer(name, engines))]
            self._common = Common(engines, direct(engines), nginx, one, three, tuple(others), tuple(context))
        return self._common

    async def _peer(self, name: str, engines: Sequence[Process]) -> Target | None:
        self.say(f"installing and starting {name}")
        try:
            return await peers.start(self.bed, peers.PEERS[name], engines)
        except BedError as error:
            self.note(f"{name} is left out: {error}")
            return None

    @property
    def measured_peers(self) -> list[str]:
        """Those that could be had."""
        return [peer.name for peer in self._common.peers] if self._common else []

    def note(self, text: str) -> None:
        """Once, whatever happens again."""
        if text not in self.notes:
            self.notes.append(text)

    async def measure(
        self, target: Target, request: Callable[[str], bytes], count: int, *, over_s: float = 0.0
    ) -> Measured:
        """Let `count` clients load the target, and look at `scale.seconds` of it once all are at work."""
        async with Load(target.urls, request, count, over_s=over_s) as load:
            await asyncio.sleep(WARM_S + over_s)
            families = [proc.family([process.pid]) for process in target.processes]
            before = [proc.cpu_s(pids) for pids in families]
            sample = load.new_sample()
            await asyncio.sleep(self.scale.seconds)
            after = [proc.cpu_s(pids) for pids in families]
            load.new_sample()
        if sample.errors:
            errors = ", ".join(f"{times} × {error}" for error, times in sample.errors.items())
            self.note(f"{target.name}: of {sample.answers} requests failed {errors}")
        return Measured(sample, tuple(b - a for a, b in zip(before, after, strict=True)))

    async def rounds(
        self, what: str, targets: Sequence[Target], once: Callable[[Target], Awaitable[Measured]]
    ) -> dict[str, list[Measured]]:
        """Each target once a round, by name; each round begins with another one."""
        found: dict[str, list[Measured]] = {target.name: [] for target in targets}
        for number in range(self.scale.rounds):
            self.say(f"{what}: round {number + 1} of {self.scale.rounds}")
            turn = number % len(targets)
            for target in [*targets[turn:], *targets[:turn]]:
                found[target.name].append(await once(target))
        return found

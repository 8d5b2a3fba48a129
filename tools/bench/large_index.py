"""A root of 10,000 engines on four levels, without sockets: `python tools/bench/large_index.py [FOLDER...]`.

Each FOLDER is a copy of the project, compiled (`tools/compiled.py FOLDER --whole`) or not; the default is this one.
The figures, each of a process of its own that has imported all of a node:

- its memory, once the registry knows all engines and the index is as full as its bound allows;
- the CPU time of one decision with such an index: matches, cost, lease, and what is noted;
- how much of the prompts it knows, by `index_memory`: chats whose turns come in turn, many more at once than a root of
  this size has, replayed through the production classes. Loads play no part: every child is free.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import xxhash

ROOT = Path(__file__).parents[2]
SPREAD = (10, 10, 10, 10)  # children at each level
ENGINES = 10_000
MB = 1024 * 1024
BOUND_MB, MEMORY_MB, DECISION_US = 128, 250, 100
SIZES_MB = (4, 8, 16, 32, 64, 128)
OPENINGS = 50  # different system prompts
OPENING = 6  # digests of one
TURNS = 4


def _folders(paths: list[Path]) -> list[Path]:
    return [path.absolute() for path in paths] or [ROOT]


# -- in the process that is measured ----------------------------------------------------------------------------------


def _engine(name: str) -> dict[str, Any]:
    models = [{"name": "bench", "api": "openai", "speed": 1.0, "queue_length": 0, "slots": 8}]
    known = {"name": name, "kind": "vllm", "url": f"http://{name}:8000", "state": "up", "detail": ""}
    return {**known, "speed": 1.0, "queue_length": 0, "in_flight": 0, "models": models, "children": {}}


def _below(name: str, level: int) -> dict[str, Any]:
    """What a node at this level reports as its children."""
    count = SPREAD[level]
    if level == len(SPREAD) - 1:
        return {f"gpu-{number}": _engine(f"{name}-gpu-{number}") for number in range(count)}
    found = {}
    for number in range(count):
        child = f"{name}-{number}"
        models = [{"name": "bench", "api": "openai", "speed": 100.0, "queue_length": 0}]
        entry = {"name": child, "kind": "node", "url": f"http://{child}:21001", "state": "up", "detail": ""}
        below = _below(child, level + 1)
        found[child] = {**entry, "speed": 100.0, "queue_length": 0, "in_flight": 0, "models": models, "children": below}
    return found


def _root() -> Any:
    """A registry whose children are nodes with a tenth of the engines each."""
    import hierarchy.node
    import hierarchy.server  # noqa: F401  all that a node has in its memory
    from hierarchy.registry import Registry
    from hierarchy.wire.messages import Identity, Registration, WorkerStatus
    from hierarchy.wire.status import ModelStatus

    registry = Registry(Identity("root", "http://127.0.0.1:1", "root"), time.monotonic)
    for number in range(SPREAD[0]):
        name = f"region-{number}"
        registry.register(
            Registration(
                worker_name=f"http://127.0.0.1:{number + 2}",
                check_heart_beat=False,
                worker_status=WorkerStatus(["bench"], 1000.0),
                node=name,
                instance=f"{number:016x}",
                models=[ModelStatus("bench", "openai", 1000.0)],
                children=_below(name, 1),
                reads_prefix=True,
            )
        )
    return registry


def _chat(chat: int, turn: int) -> Any:
    """What a prompt begins with: of one of some system prompts, then of this chat alone."""
    from hierarchy.prefix.fingerprint import PLACES, Fingerprint

    length = 2000 + chat % 3000 + 600 * turn
    raw = b"".join([xxhash.xxh3_128_digest(b"%d" % chat, seed=part) for part in range(8)])
    opening = b"".join([xxhash.xxh3_128_digest(b"o%d" % (chat % OPENINGS), seed=part) for part in range(3)])
    row = opening[: 6 * OPENING] + raw
    count = sum(place <= length for place in PLACES)
    return Fingerprint(length, tuple([row[at : at + 6] for at in range(0, 6 * count, 6)]))


def _dispatch(registry: Any, memory_mb: int) -> Any:
    from hierarchy.balancing.dispatch import Dispatch

    dispatch = Dispatch(registry, "prefix", random.Random(1))
    assert dispatch.prefixes is not None
    dispatch.prefixes.index.memory = memory_mb * MB
    dispatch.prefixes.index.resize(registry.engine_count())
    return dispatch


def _decide(dispatch: Any, prompt: Any) -> int:
    """Bytes of a prompt that its child has."""
    lease = dispatch.lease(("bench", "openai"), prefix=prompt)
    matched: int = lease.matched
    lease.release()
    return matched


def _fill(dispatch: Any) -> None:
    """As much as the bound allows, of prompts that do not come again."""
    from hierarchy.prefix.fingerprint import PLACES, Fingerprint

    index, rng = dispatch.prefixes.index, random.Random(2)
    for number in range(max(1, index.memory // 16 * 2 // 20)):
        raw = rng.randbytes(120)
        prompt = Fingerprint(PLACES[19], tuple([raw[at : at + 6] for at in range(0, 120, 6)]))
        index.note(prompt, 1 + number % SPREAD[0])


def _memory() -> tuple[int, int]:
    """KiB that this process has, and the most that it had."""
    text = Path("/proc/self/status").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.startswith("Vm")}
    return found["VmRSS"], found["VmHWM"]


def measure(decisions: int) -> None:
    """Print memory and time."""
    registry = _root()
    dispatch = _dispatch(registry, BOUND_MB)
    assert registry.engine_count() == ENGINES, registry.engine_count()
    before, _ = _memory()
    _fill(dispatch)
    after, most = _memory()
    index = dispatch.prefixes.index
    print(f"  memory: {before / 1024:.0f} MiB with {ENGINES:,} engines, {after / 1024:.0f} MiB with {len(index):,} "
          f"digests as well (target: {MEMORY_MB}; the most at any time: {most / 1024:.0f})")  # fmt: skip
    for turn, what in enumerate(("the first turn of a chat", "its next turn")):
        prompts = [_chat(chat, turn) for chat in range(decisions)]
        start = time.thread_time()
        for prompt in prompts:
            _decide(dispatch, prompt)
        each = 1e6 * (time.thread_time() - start) / decisions
        print(f"  a decision, {what}: {each:.1f} µs of CPU time (target: {DECISION_US})")


def replay(chats: int) -> None:
    """Print how much of the prompts is known, by the memory of the index."""
    registry = _root()
    for memory_mb in SIZES_MB:
        dispatch, rng = _dispatch(registry, memory_mb), random.Random(3)
        order, known, total = list(range(chats)), 0, 0
        for turn in range(TURNS):
            rng.shuffle(order)
            for chat in order:
                prompt = _chat(chat, turn)
                matched = _decide(dispatch, prompt)
                if turn:
                    known += matched
                    total += prompt.length - 600
        print(f"  index_memory {memory_mb:4} MB: {known / total:.3f} of what was sent before is known; "
              f"{len(dispatch.prefixes.index):9,} digests")  # fmt: skip


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure a root of 10,000 engines that chooses by prefix.")
    parser.add_argument("folders", type=Path, nargs="*", help="copies of the project, compiled or not")
    parser.add_argument("--decisions", type=int, default=5_000, metavar="NUMBER", help="decisions that are timed")
    parser.add_argument("--chats", type=int, default=400_000, metavar="NUMBER", help="chats at once (0: no replay)")
    parser.add_argument("--within", choices=("measure", "replay"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.within:
        measure(args.decisions) if args.within == "measure" else replay(args.chats)
        return 0
    for folder in _folders(args.folders):
        print(f"{folder}:", flush=True)
        for what in ("measure", "replay") if args.chats else ("measure",):
            argv = [sys.executable, __file__, "--within", what, "--decisions", args.decisions, "--chats", args.chats]
            env = {**os.environ, "PYTHONPATH": f"{folder}:{folder}/tools"}
            subprocess.run([str(one) for one in argv], env=env, cwd=folder, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

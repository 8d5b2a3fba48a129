"""The CPU time that the policy `prefix` adds to a request: at the entry node, and at each node below. No network."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable

from bench.benchmark import Benchmark, Result
from bench.load import completion
from bench.own_process import run_alone
from bench.scenarios.choosing import KEY, registry_of
from bench.scenarios.throughput import JSON_CONNECTIONS
from bench.table import Row, middle, ratio, spread
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.http.dialect import CHAT
from hierarchy.http.request_head import RequestHead
from hierarchy.registry import Registry
from hierarchy.relay.choosing import claim
from hierarchy.relay.fingerprints import Fingerprints
from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.request import Request

CHILDREN = 10
SESSIONS = 32  # whose prompts come in turn
MODULE = "bench.scenarios.prefixes"  # run in another process
PIECE = 64 * 1024  # bytes of a read
FULL_INDEX = 1_000_000  # digests that are remembered already
#: what is measured: bytes of the prompt, and the most that it may cost
AT_ENTRY_US = {2_000: 5.0, 24_000: 15.0, 400_000: 120.0}
BELOW_US = {2_000: 6.0, 24_000: 6.0}
MOST_JSON = 1.15  # of what a request costs at three levels without it

HEAD = RequestHead.from_fields(
    (CHAT, b"/v1/chat/completions"), [], {}, http10=False, keep_alive=True, within_limits=True
)


async def prefixes(benchmark: Benchmark) -> Result:
    """The CPU time that prefixes cost: without a network, in a separate process, with the measured build; with one."""
    rows = []
    for what, sizes in (("at the entry", AT_ENTRY_US), ("at each node below", BELOW_US)):
        for size, limit in sizes.items():
            benchmark.progress(f"prefix of {size} bytes {what}")
            times = max(20, benchmark.scale.choices * 200 // (size + 2000))
            timed = [
                (await run_alone(benchmark, MODULE, "prefixes", what, size, times))[0]
                for _ in range(benchmark.scale.rounds)
            ]
            name = f"a prefix of {size / 1000:.0f} KB {what}, {CHILDREN} children"
            rows.append(Row(name, middle(timed), "µs", limit, "CPU time added to a request"))
    rows.append(await _json(benchmark))
    return Result(rows)


async def _json(benchmark: Benchmark) -> Row:
    """JSON requests at three levels, with the policy and without it, in one run."""
    testbed = benchmark.testbed
    engines = [testbed.engine() for _ in range(2)]
    targets = [testbed.three_levels(engines, policy, policy=policy) for policy in ("prefix", "shortest_queue")]
    await testbed.ready(targets)
    found = await benchmark.rounds(
        "JSON requests by prefix", targets, lambda target: benchmark.measure(target, completion, JSON_CONNECTIONS)
    )
    with_it, without = ([one.us_per_response for one in found[target.name]] for target in targets)
    detail = f"{spread(with_it, 'µs')}; shortest_queue {spread(without, 'µs')}"
    return Row("JSON request, three levels, prefix", ratio(with_it, without), "× shortest_queue", MOST_JSON, detail)


def _time(what: str, size: int, times: int) -> float:
    """µs of CPU time that a request costs more with the policy `prefix` than with `shortest_queue`."""
    bodies = [_body(size, number) for number in range(SESSIONS)]
    registry, fingerprints = registry_of(CHILDREN, (1.0,), reads_prefix=True), Fingerprints("00")
    fields = _fields(bodies, fingerprints, registry)

    def entry(dispatch: Dispatch, number: int) -> None:
        request, body = Request(HEAD, 0.0, held), bodies[number]
        if len(body) > PIECE:
            request.read_as_it_comes()
            for begin in range(0, len(body), PIECE):
                request.add(body[begin : begin + PIECE], 1 << 30)
            request.end_body()
        else:
            request.set_body(body)
        request.read_model(dispatch, fingerprints)
        lease = claim(request, dispatch, fingerprints)
        if dispatch.prefixes is not None:
            request.prefix_line(fingerprints)
        request.forget_body()
        lease.first_byte()
        lease.release()

    def below(dispatch: Dispatch, number: int) -> None:
        request = Request(HEAD, 0.0, held)
        request.model = KEY[0]
        if dispatch.prefixes is not None:
            request.prefix_field = fields[number]
        lease = claim(request, dispatch, fingerprints)
        if dispatch.prefixes is not None:
            request.prefix_line(fingerprints)
        lease.first_byte()
        lease.release()

    held = HeldBytes()
    work = entry if what == "at the entry" else below
    with_it, without = (Dispatch(registry, name, random.Random(1)) for name in ("prefix", "shortest_queue"))
    _fill(with_it)
    best = [1e9, 1e9]
    for _ in range(5):
        for place, dispatch in enumerate((with_it, without)):
            best[place] = min(best[place], _cpu(work, dispatch, times))
    return 1e6 * (best[0] - best[1])


def _cpu(work: Callable[[Dispatch, int], None], dispatch: Dispatch, times: int) -> float:
    """Seconds of CPU time of one call."""
    start = time.thread_time()
    for turn in range(times):
        work(dispatch, turn % SESSIONS)
    return (time.thread_time() - start) / times


def _fill(dispatch: Dispatch) -> None:
    prefixes, rng = dispatch.prefixes, random.Random(2)
    if prefixes is None:
        return
    prefixes.index.resize(FULL_INDEX)
    for _ in range(FULL_INDEX):
        prefixes.index.note_one(rng.getrandbits(48), 1000 + rng.randrange(CHILDREN))


def _fields(bodies: list[bytes], fingerprints: Fingerprints, registry: Registry) -> list[bytes]:
    """What a parent would send with these requests."""
    dispatch, fields = Dispatch(registry, "prefix", random.Random(1)), []
    for body in bodies:
        request = Request(HEAD, 0.0, HeldBytes())
        request.set_body(body)
        request.read_model(dispatch, fingerprints)
        fields.append(request.prefix_line(fingerprints).partition(b": ")[2])
    return fields


def _body(size: int, number: int) -> bytes:
    """A chat whose prompt has about so many bytes; all have the same beginning."""
    texts = [f"{number} and {turn}: what is there to be said of it? " * 10 for turn in range(size // 600)]
    messages = [{"role": "system", "content": "You are a helpful assistant. " * 20}]
    messages += [{"role": "user" if turn % 2 == 0 else "assistant", "content": text} for turn, text in enumerate(texts)]
    fields = {"model": KEY[0], "messages": messages, "temperature": 0.7, "max_tokens": 500, "stream": True}
    return json.dumps(fields).encode()


if __name__ == "__main__":
    print(_time(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

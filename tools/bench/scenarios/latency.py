"""What three levels add to the time to first token, and the CPU time of a long prompt at each of them."""

from __future__ import annotations

from functools import partial

from bench.benchmark import STREAM_S, Benchmark, Result
from bench.load import completion
from bench.plots import Bar, bars
from bench.scenarios.throughput import STREAMS
from bench.table import Row, amount, middle, percentile, spread
from bench.testbed import Target

PROMPT_BYTES = 400 * 1000
PROMPT_CONNECTIONS = 8


async def first_tokens(benchmark: Benchmark) -> Result:
    """TTFT through three levels, minus that of the engines without a router, for 100 streams."""
    common = await benchmark.common()
    request = partial(completion, stream=True)
    targets = [common.direct, common.three]
    found = await benchmark.rounds(
        "time to first token", targets, lambda target: benchmark.measure(target, request, STREAMS, over_s=STREAM_S)
    )
    rows = []
    for part, limit_ms in ((0.5, 1.5), (0.99, 10.0)):
        direct, three = (
            [1000 * percentile(one.sample.ttft_s, part) for one in found[target.name]] for target in targets
        )
        added = [b - a for a, b in zip(direct, three, strict=True)]
        detail = f"{spread(three, 'ms')}; direct {spread(direct, 'ms')}"
        rows.append(Row(f"TTFT added by three levels, p{100 * part:.0f}", middle(added), "ms", limit_ms, detail))
    return Result(rows)


async def long_prompts(benchmark: Benchmark) -> Result:
    """A prompt of 400 KB: CPU time of the entry node, which reads the JSON, and of the other levels, which do not."""
    common = await benchmark.common()
    request = partial(completion, size=PROMPT_BYTES)
    targets: list[Target] = [common.three, *([common.nginx] if common.nginx else [])]
    found = await benchmark.rounds(
        "long prompts", targets, lambda target: benchmark.measure(target, request, PROMPT_CONNECTIONS)
    )
    costs: dict[str, list[float]] = {}
    for number, process in enumerate(common.three.processes):
        costs[process.name] = [
            1000 * one.cpu_s[number] / max(1, one.sample.responses) for one in found[common.three.name]
        ]
    entry, *other_levels = costs
    rows = [Row("400 KB prompt, entry node", middle(costs[entry]), "ms", 0.8, spread(costs[entry], "ms"))]
    worst = max(other_levels, key=lambda name: middle(costs[name]))
    detail = "; ".join(f"{name} {spread(costs[name], 'ms')}" for name in other_levels)
    rows.append(Row("400 KB prompt, each other level", middle(costs[worst]), "ms", 0.3, detail))
    chart = [Bar(f"node {name}", middle(cost), "hierarchy") for name, cost in costs.items()]
    if common.nginx:
        nginx_ms = middle([one.us_per_response / 1000 for one in found[common.nginx.name]])
        rows[0] = Row(rows[0].what, rows[0].value, "ms", 0.8, f"{rows[0].detail}; nginx {amount(nginx_ms, 'ms')}")
        chart.append(Bar("nginx", nginx_ms))
    return Result(rows, {"prompt.svg": bars("CPU time per prompt of 400 KB", "ms", chart)})

"""CPU time per JSON request and per streamed chunk: one level, three levels, nginx and peers."""

from __future__ import annotations

from functools import partial

from bench.benchmark import STREAM_S, Benchmark, Common, Result
from bench.load import completion
from bench.plots import Bar, bars
from bench.table import Row, middle, ratio, spread

JSON_CONNECTIONS, STREAMS = 32, 100


async def json_requests(benchmark: Benchmark) -> Result:
    """Requests and responses of 1 KB, 32 keep-alive connections."""
    common = await benchmark.common()
    found = await benchmark.rounds(
        "JSON requests", common.routers, lambda target: benchmark.measure(target, completion, JSON_CONNECTIONS)
    )
    costs = {name: [one.us_per_response for one in measured] for name, measured in found.items()}
    return _result(common, costs, "JSON request", (1.6, 4.5, 0.5), "json.svg")


async def stream_chunks(benchmark: Benchmark) -> Result:
    """100 streams at once, one chunk every 10 ms each."""
    common = await benchmark.common()
    request = partial(completion, stream=True)
    found = await benchmark.rounds(
        "streams", common.routers, lambda target: benchmark.measure(target, request, STREAMS, over_s=STREAM_S)
    )
    costs = {name: [one.us_per_chunk for one in measured] for name, measured in found.items()}
    return _result(common, costs, "SSE chunk", (1.25, 3.6, 0.75), "sse.svg")


def _result(
    common: Common, costs: dict[str, list[float]], what: str, limits: tuple[float, float, float], chart: str
) -> Result:
    """costs: name of the target → µs of each round. limits: one level and three × nginx; one level × vllm-router."""
    rows: list[Row] = []
    one, three = costs[common.one.name], costs[common.three.name]
    nginx = costs[common.nginx.name] if common.nginx else None
    for levels, cost, limit in (("one level", one, limits[0]), ("three levels", three, limits[1])):
        if nginx:
            detail = f"{spread(cost, 'µs')}; nginx {spread(nginx, 'µs')}"
            rows.append(Row(f"{what}, {levels}", ratio(cost, nginx), "× nginx", limit, detail))
        else:
            rows.append(Row(f"{what}, {levels}", middle(cost), "µs", detail=spread(cost, "µs")))
    for peer in common.peers:
        peer_costs = costs[peer.name]
        peer_limit = limits[2] if peer.name == "vllm-router" else None
        rows.append(
            Row(f"{what}, one level", ratio(one, peer_costs), f"× {peer.name}", peer_limit, spread(peer_costs, "µs"))
        )
    if nginx:
        for target in common.references:
            name, cost = target.name.removeprefix("hierarchy, "), costs[target.name]
            rows.append(Row(f"{what}, {name}", ratio(cost, nginx), "× nginx", detail=spread(cost, "µs")))
    chart_rows = [
        Bar(name, middle(cost), "hierarchy" if name.startswith("hierarchy") else "other")
        for name, cost in costs.items()
    ]
    line = limits[0] * middle(nginx) if nginx else None
    title = f"CPU time of the router per {what}" + (f" (dashed: {limits[0]:g} × nginx)" if line else "")
    return Result(rows, {chart: bars(title, "µs", chart_rows, line)})

"""CPU per JSON request and per streamed chunk, of one level, of three, of nginx and of the peers."""

from __future__ import annotations

from functools import partial

from bench.load import completion
from bench.plots import Bar, bars
from bench.stage import STREAM_S, Common, Result, Stage
from bench.table import Row, middle, ratio, spread

JSON_CONNECTIONS, STREAMS = 32, 100


async def json_requests(stage: Stage) -> Result:
    """1 KB in, 1 KB out, 32 keep-alive connections."""
    common = await stage.common()
    found = await stage.rounds(
        "JSON requests", common.routers, lambda target: stage.measure(target, completion, JSON_CONNECTIONS)
    )
    costs = {name: [one.us_per_answer for one in measured] for name, measured in found.items()}
    return _result(common, costs, "JSON request", (1.6, 4.5, 0.5), "json.svg")


async def stream_chunks(stage: Stage) -> Result:
    """100 streams at once, each a chunk every 10 ms."""
    common = await stage.common()
    request = partial(completion, stream=True)
    found = await stage.rounds(
        "streams", common.routers, lambda target: stage.measure(target, request, STREAMS, over_s=STREAM_S)
    )
    costs = {name: [one.us_per_chunk for one in measured] for name, measured in found.items()}
    return _result(common, costs, "SSE chunk", (1.25, 3.6, 0.75), "sse.svg")


def _result(
    common: Common, costs: dict[str, list[float]], what: str, limits: tuple[float, float, float], chart: str
) -> Result:
    """costs: µs by target and round. limits: one level and three beside nginx; one level beside vllm-router."""
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
        beside = costs[peer.name]
        limit_beside = limits[2] if peer.name == "vllm-router" else None
        rows.append(Row(f"{what}, one level", ratio(one, beside), f"× {peer.name}", limit_beside, spread(beside, "µs")))
    if nginx:
        for target in common.context:
            name, cost = target.name.removeprefix("hierarchy, "), costs[target.name]
            rows.append(Row(f"{what}, {name}", ratio(cost, nginx), "× nginx", detail=spread(cost, "µs")))
    chart_rows = [
        Bar(name, middle(cost), "ours" if name.startswith("hierarchy") else "other") for name, cost in costs.items()
    ]
    line = limits[0] * middle(nginx) if nginx else None
    title = f"CPU of the router per {what}" + (f" (dashed: {limits[0]:g} × nginx)" if line else "")
    return Result(rows, {chart: bars(title, "µs", chart_rows, line)})

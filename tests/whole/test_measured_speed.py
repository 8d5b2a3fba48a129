"""Measured speeds and slots in a tree of real nodes."""

from __future__ import annotations

from typing import Any

import httpx

from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.config.speed import MeasuredSpeed
from tests.cluster import QUICK, Cluster, Running, wait_for_model
from tests.support import DEADLINE_S, eventually


def stream(root: Running, model: str) -> None:
    body = {"model": model, "prompt": "go", "max_tokens": 20, "stream": True}
    assert httpx.post(f"{root.url}/v1/completions", json=body, timeout=DEADLINE_S).status_code == 200


def row(root: Running, model: str) -> dict[str, Any]:
    rows = httpx.get(f"{root.url}/tree").json()["models"]
    return next((row for row in rows if (row["name"], row["api"]) == (model, "openai")), {})


def test_the_root_learns_how_fast_the_engines_below_it_write(cluster: Cluster) -> None:
    engines = {
        "slow": cluster.engine(models=("slow",), decode_tokens_per_s=100.0, slots=3),
        "fast": cluster.engine(models=("fast",), decode_tokens_per_s=4000.0, slots=5),
    }
    root = cluster.node("root", settings=QUICK)
    measured = [
        EngineConfig(name=name, kind="simulated", url=engine.url, speed=MeasuredSpeed(1.0))
        for name, engine in engines.items()
    ]
    listen = (("127.0.0.1", 0),)
    cluster.serve(
        NodeConfig(name="site", listen=listen, advertise="http://127.0.0.1:0", parents=(root.url,),
                   engines=tuple(measured), settings=QUICK)
    )  # fmt: skip
    for model in engines:
        wait_for_model(root.url, model)
        assert (row(root, model)["speed"], row(root, model)["slots"]) == (1.0, 3 if model == "slow" else 5)
        assert "decode" not in row(root, model)
        stream(root, model)
    eventually(lambda: all("decode" in row(root, model) for model in engines), "the rates to be reported")
    slow, fast = row(root, "slow"), row(root, "fast")
    assert fast["decode"] > slow["decode"]
    assert fast["speed"] > slow["speed"]

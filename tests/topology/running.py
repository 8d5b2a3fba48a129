"""A running tree as the JSON of `GET /tree`, and the configuration that declares it."""

from __future__ import annotations

from typing import Any

CONFIG = """\
version: 1
nodes:
  root: {listen: "10.0.0.1:1"}
  a: {parent: root, listen: "10.0.0.2:1"}
  b: {parent: root, listen: ["10.0.0.3:1", "10.9.0.3:1"]}
engines:
  a1: {parent: a, kind: vllm, url: "http://10.0.0.11:8000", models: [m]}
  b1: {parent: b, kind: simulated, model: m}
"""


def entry(
    name: str, kind: str = "node", url: str = "", models: tuple[str, ...] = ("m",), **fields: Any
) -> dict[str, Any]:
    """An entry of `GET /tree`. fields: `below`, a list of its children, or other fields of the entry."""
    rows = [{"name": model, "api": "openai"} for model in models]
    below = {child["name"]: child for child in fields.pop("below", [])}
    instance = f"{name}-1" if kind == "node" else ""
    known = {"name": name, "kind": kind, "url": url or f"http://{name}:1", "state": "up", "instance": instance}
    return {**known, "models": rows, "speed": 1.0, "children": below, **fields}


def running(**changes: Any) -> dict[str, Any]:
    """The running tree of CONFIG. changes: name -> fields that differ."""

    def member(name: str, kind: str, url: str, below: list[dict[str, Any]]) -> dict[str, Any]:
        return entry(name, **{"kind": kind, "url": url, "below": below, **changes.get(name, {})})

    a1 = member("a1", "vllm", "http://10.0.0.11:8000", [])
    b1 = member("b1", "simulated", "http://127.0.0.1:4711", [])
    sites = [member("a", "node", "http://10.0.0.2:1", [a1]), member("b", "node", "http://10.9.0.3:1", [b1])]
    return member("root", "node", "http://10.0.0.1:1", sites)

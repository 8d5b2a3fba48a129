"""How a running tree differs from the declared one. Both are graphs: `topology.build` and `live.build_live`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Drift:
    """One difference. name: of the node or engine; declared: its key in the declared graph, None for a stranger."""

    name: str
    declared: str | None
    what: str


def scope(declared: nx.DiGraph, live: nx.DiGraph) -> set[str]:
    """The part of the declared tree that the node that was asked can see: it and all below; all if it is a stranger."""
    top = next(iter(live))
    return {top} | nx.descendants(declared, top) if top in declared else set(declared)


def drift(declared: nx.DiGraph, live: nx.DiGraph) -> list[Drift]:
    """Declared and absent or not up, another parent, kind, address or models; then what is there undeclared."""
    known = scope(declared, live)
    twins = _by_name(live)
    found: list[Drift] = []
    met: set[str] = set()
    top = next(iter(live))
    for key in declared:
        at = declared.nodes[key]
        if key not in known:
            continue
        name = str(at["field"][-1])
        registered = at.get("replica_of") or name
        candidates = [one for one in twins.get((registered, at["kind"]), ()) if one not in met]
        there = _pick(live, candidates, at)
        below = _below(at)
        if there is None:
            found.append(Drift(name, key, f"declared{below}, and absent"))
            continue
        met.add(there)
        found += [Drift(name, key, what) for what in _differences(at, live, there, is_top=there == top)]
    return [*found, *_strangers(live, met)]


def _by_name(live: nx.DiGraph) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for key, at in live.nodes.items():
        found.setdefault((at["name"], at["kind"]), []).append(key)
    return found


def _pick(live: nx.DiGraph, keys: Iterable[str], at: Attributes) -> str | None:
    """Of those with one name, the one at a declared address, else the one below a declared parent, else the first."""
    keys = list(keys)
    at_home = [key for key in keys if set(live.nodes[key]["registered"]) & set(at["registered"])]
    below = [key for key in keys if set(at["parents"]) & set(live.pred[key])]
    return next(iter([*at_home, *below, *keys]), None)


def _below(at: Attributes) -> str:
    return f" below {' and '.join(at['parents'])}" if at["parents"] else ""


def _differences(at: Attributes, live: nx.DiGraph, key: str, *, is_top: bool) -> Iterator[str]:
    there = live.nodes[key]
    if there["state"] == "gone":
        yield f"declared, and absent: {there['detail'] or 'gone'}"
        return
    parents = list(live.pred[key])
    if not is_top and not {live.nodes[parent]["name"] for parent in parents} & set(at["parents"]):
        yield f"stands below {' and '.join(parents)}, declared below {' and '.join(at['parents']) or 'nobody'}"
    if there["state"] != "up":
        yield f"is {there['state']}" + (f": {there['detail']}" if there["detail"] else "")
    if at["kind"] == "engine" and at["engine"] != there["engine"]:
        yield f"is of kind {there['engine']}, declared as {at['engine']}"
    own = [url for url in at["registered"] if not url.endswith(":0")]  # a port that the system chose
    if own and there["registered"] and there["registered"][0] not in own:
        yield f"is at {there['registered'][0]}, declared at {', '.join(own)}"
    if at["kind"] == "engine" and at["models"] and there["state"] == "up":
        yield from _models(set(at["models"]), set(there["models"]))


def _models(declared: set[str], live: set[str]) -> Iterator[str]:
    if declared - live:
        serves = f"serves {', '.join(sorted(live))}" if live else "serves nothing"
        yield f"{serves}, declared with {', '.join(sorted(declared))}"
    elif live - declared:
        yield f"serves {', '.join(sorted(live - declared))} too, which is not declared"


def _strangers(live: nx.DiGraph, met: set[str]) -> Iterator[Drift]:
    for key, at in live.nodes.items():
        if key in met or at["state"] == "gone":
            continue
        what = at["engine"] if at["kind"] == "engine" else "node"
        where = _below(at)
        url = f" at {at['registered'][0]}" if at["registered"] else ""
        yield Drift(str(at["name"]), None, f"present{where} ({what}{url}), and undeclared")

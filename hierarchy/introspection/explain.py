"""Why a request would go where: level by level who may be chosen, at which score, and why the others are passed over.

Told from a node's own `GET /tree` alone, so answering costs no request to anybody. The first level is exact, since the
node's leases are in it; below, loads are those of the last report, and the choice there is only the likely one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hierarchy.wire import subtree

Entry = Mapping[str, Any]  #: one node or engine of `GET /tree`
MAX_LEVELS = subtree.MAX_DEPTH
OTHER = {"openai": "fastchat", "fastchat": "openai"}  #: API families
NAMED = 3  # leaves that are named one by one in a reason; more are counted


def explain(tree: Entry, model: str, api: str) -> dict[str, Any]:
    """The way of the next request for a model through one API family, as plain JSON.

    `{model, api, levels, path}`: each level `{node, dispatch, api, candidates, passed_over, next}` with candidates
    `{name, kind, link, load, speed, score, chance}` (link: `direct` or `reverse`; chance: 0 to 1, of being chosen now),
    those passed over `{name, kind, link, reason}`, and next the likeliest; path: "site-a/gpu-1", or "" where it would
    end before an engine. A level's api is the other one where nobody serves the model through the one asked for: then
    the request is translated at the end of the way.
    """
    levels: list[dict[str, Any]] = []
    entry: Entry | None = tree
    way: list[str] = []
    while entry is not None and entry.get("kind") == "node" and len(levels) < MAX_LEVELS:
        level = _level(entry, model, api)
        levels.append(level)
        entry = _children(entry).get(level["next"])
        way += [level["next"]] if entry is not None else []
    arrived = entry is not None and entry.get("kind") != "node"
    return {"model": model, "api": api, "levels": levels, "path": "/".join(way) if arrived else ""}


def _level(entry: Entry, model: str, api: str) -> dict[str, Any]:
    native, _ = _sorted_out(entry, model, api)
    other = OTHER.get(api, api)
    if not native and _sorted_out(entry, model, other)[0]:
        api = other
    candidates, passed_over = _sorted_out(entry, model, api)
    policy = str(entry.get("dispatch") or "")
    odds = chances(policy, [(item["score"], item["speed"]) for item in candidates])
    for item, chance in zip(candidates, odds, strict=True):
        item["chance"] = chance
    likeliest = max(candidates, key=lambda item: item["chance"], default=None)
    return {
        "node": str(entry.get("name") or "?"),
        "dispatch": policy,
        "api": api,
        "candidates": candidates,
        "passed_over": passed_over,
        "next": likeliest["name"] if likeliest else "",
    }


def _sorted_out(entry: Entry, model: str, api: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A node's children that may be chosen for a model through an API family, and those that may not."""
    candidates: list[dict[str, Any]] = []
    passed_over: list[dict[str, Any]] = []
    for name, child in _children(entry).items():
        kind, link = str(child.get("kind") or "?"), str(child.get("link") or "direct")
        known = {"name": name, "kind": kind, "link": link}
        row = _row(child, model, api)
        if child.get("state") == "up" and row is not None:
            load, speed = _number(row.get("queue_length")), _number(row.get("speed"))
            candidates.append({**known, "load": load, "speed": speed, "score": load / speed if speed else 0.0})
        else:
            passed_over.append({**known, "reason": _reason(child, model, api)})
    return candidates, passed_over


def chances(policy: str, shares: Sequence[tuple[float, float]]) -> list[float]:
    """How likely each of some (score, speed) is taken by a policy (see `policy.POLICIES`).

    `round_robin` takes each in turn, so each is as likely. A policy that is not known is taken for `shortest_queue`.
    """
    count, total = len(shares), sum(speed for _, speed in shares)
    if not count:
        return []
    if policy == "round_robin" or not total:
        return [1 / count] * count
    if policy == "lottery":
        return [speed / total for _, speed in shares]
    if policy == "p2c" and count > 1:
        return _two_choices(shares, total)
    least = min(score for score, _ in shares)
    equals = sum(speed for score, speed in shares if score == least)
    return [speed / equals if score == least else 0.0 for score, speed in shares]


def _two_choices(shares: Sequence[tuple[float, float]], total: float) -> list[float]:
    """The better of two different ones, each drawn by speed; of equals the first drawn."""
    taken = [0.0] * len(shares)
    for first, (score, speed) in enumerate(shares):
        for second, (other_score, other_speed) in enumerate(shares):
            if first != second and total > speed:
                pair = speed / total * other_speed / (total - speed)
                taken[second if other_score < score else first] += pair
    return taken


def _reason(child: Entry, model: str, api: str) -> str:
    """Why a child is no candidate."""
    leaves = list(_serving(child, model))
    families = {family for _, leaf in leaves for family in _families(leaf, model)}
    if not families:
        return f"does not serve {model}"
    if api not in families:
        return f"serves {model} through the {' and '.join(sorted(families))} API, and others through {api}'s"
    state = str(child.get("state") or "?")
    if state != "up":
        return state + (f": {child['detail']}" if child.get("detail") else "")
    held = [_held(path, leaf) for path, leaf in leaves if api in _families(leaf, model)]
    more = f", and {len(held) - NAMED} more" if len(held) > NAMED else ""
    return f"nobody below it can take {model} now: {', '.join(held[:NAMED])}{more}"


def _held(path: str, leaf: Entry) -> str:
    state, detail = str(leaf.get("state") or "?"), str(leaf.get("detail") or "")
    words = "up behind a node that is not, or since its last report" if state == "up" else state
    return f"{path} is {words}" + (f" ({detail})" if detail else "")


def _serving(child: Entry, model: str) -> Iterator[tuple[str, Entry]]:
    """The engines that list a model, the child itself or all below it."""
    if child.get("kind") != "node":
        if _families(child, model):
            yield str(child.get("name") or "?"), child
        return
    found = [(path, leaf) for path, leaf in subtree.leaves(child.get("children")) if _families(leaf, model)]
    if not found and _families(child, model):  # a node of a release that sends no subtree
        found = [(str(child.get("name") or "?"), child)]
    yield from found


def _families(entry: Entry, model: str) -> set[str]:
    return {str(row.get("api")) for row in _rows(entry) if row.get("name") == model}


def _row(entry: Entry, model: str, api: str) -> Entry | None:
    return next((row for row in _rows(entry) if row.get("name") == model and row.get("api") == api), None)


def _rows(entry: Entry) -> list[Entry]:
    rows = entry.get("models")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _children(entry: Entry) -> dict[str, Entry]:
    children = entry.get("children")
    if not isinstance(children, Mapping):
        return {}
    return {str(name): child for name, child in children.items() if isinstance(child, Mapping)}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0

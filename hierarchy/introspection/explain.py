"""Where the next request for a model would go: level by level the candidates, their scores, and why others are not.

Computed from this node's own `/tree`, so it sends no request. The first level is exact, since it includes the node's
open leases. The loads further down are those of the last report, so the choice there is only the likely one.

For a prompt, the first level alone is known here: which child of a node has what is known to that node only. So its own
answer replaces what is guessed of it, see `with_answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import msgspec

from hierarchy.balancing.prefix_choice import MATCH, NO_MATCH, SPREAD, STICKY, Known
from hierarchy.balancing.tiers import kept
from hierarchy.introspection.terms import busy_of, common_among, cost_of, read, weight_among
from hierarchy.introspection.warmth import Compared, warm_first
from hierarchy.introspection.warmth import reason as why_later
from hierarchy.labels import Requirement, write
from hierarchy.labels import known as known_labels
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.status import OTHER_API, Api
from hierarchy.wire.tree_entry import MAX_DEPTH, ModelEntry, TreeEntry

MAX_NAMED = 3  # engines that one reason names; more are counted
Scores = Sequence[tuple[float, float]]  #: (score, speed) of each candidate


class Candidate(Compared, frozen=True):
    """A child that may get the request, and the terms by which the policy `prefix` compares it."""

    #: `node`, or the kind of an engine
    kind: str = "?"
    #: `direct` or `reverse`
    link: str = "direct"
    #: load / speed
    score: float = 0.0
    #: probability, 0 to 1, that the policy takes it now
    chance: float = 0.0
    #: part of its responses for the model in the last 10 to 20 seconds that were failures, 0 to 1
    error_rate: float = 0.0
    #: requests by which `load` is longer than it is, since its last responses were failures
    penalty: int = 0
    #: of an engine: part of the prompts sent there of late that was in its cache, 0 to 1, as far as its parent knows
    hit_rate: float | None = None
    #: the same by the engine's own count
    engine_hit_rate: float | None = None
    #: that the node above knows it to have
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class PassedOver(msgspec.Struct, frozen=True):
    """A child that may not get the request."""

    name: str
    kind: str = "?"
    link: str = "direct"
    #: why not
    reason: str = ""


class Level(msgspec.Struct, frozen=True):
    """The choice at one node."""

    node: str
    #: the node's policy; "" if it is not known
    dispatch: str = ""
    #: API family through which the children are compared; not the requested one if only the other is served
    api: str = ""
    candidates: list[Candidate] = []
    passed_over: list[PassedOver] = []
    #: name of the likeliest candidate; "" if there is none
    next: str = ""
    #: why a prompt goes there, as in `hierarchy_prefix_choices_total`; "": no prompt, or another policy
    reason: str = ""


class Route(msgspec.Struct, frozen=True):
    """The path of the next request for a model: the response of `GET /route`."""

    #: the name in the request: a model's or an alias
    asked: str
    model: str
    #: requested API family
    api: str
    levels: list[Level] = []
    #: to the likeliest engine, such as "site-a/gpu-1"; "" if no engine can take the request
    path: str = ""
    #: bytes of the prompt, if there is one
    prompt: int | None = None
    #: how many digests its fingerprint has; 0: it goes by load
    digests: int = 0
    #: labels that are required, as `region=eu,trust=own`; "" for none
    require: str = ""


def explain(
    tree: TreeEntry,
    model: str,
    api: Api,
    asked: str = "",
    known: Known | None = None,
    require: Requirement | None = None,
) -> Route:
    """Where the next request for a model through one API family goes.

    asked: the alias, if the request names one. known: what the first node knows of the request's prompt. require: the
    labels that are required there; None for none.
    """
    return at_once(explain_steps(tree, model, api, asked, known, require))


def explain_steps(
    tree: TreeEntry,
    model: str,
    api: Api,
    asked: str = "",
    known: Known | None = None,
    require: Requirement | None = None,
) -> Steps[Route]:
    """`explain`, child by child."""
    levels: list[Level] = []
    path: list[str] = []
    entry: TreeEntry | None = tree
    needed = require
    while entry is not None and entry.is_node and len(levels) < MAX_DEPTH:
        level = yield from _level(entry, model, api, None if levels else known, needed)
        levels.append(level)
        entry = entry.children.get(level.next) if level.candidates else None
        if needed is not None and entry is not None:
            needed = needed.below(entry.labels)
        path.append(level.next)
    reached_engine = entry is not None and not entry.is_node
    whole = "/".join(path) if reached_engine else ""
    text = require.text if require is not None else ""
    return Route(asked or model, model, api, levels, whole, require=text)


def with_answer(route: Route, below: Route) -> Route:
    """A route whose levels from the second one on are those that the node there gave itself."""
    path = f"{route.levels[0].next}/{below.path}" if below.path else ""
    return msgspec.structs.replace(route, levels=[route.levels[0], *below.levels[: MAX_DEPTH - 1]], path=path)


def _level(entry: TreeEntry, model: str, api: Api, known: Known | None, require: Requirement | None) -> Steps[Level]:
    yield from _decode_children(entry)
    candidates, passed_over = yield from _split(entry, model, api, known, require)
    if not candidates:
        translated = yield from _split(entry, model, OTHER_API[api], known, require)
        if translated[0]:
            (candidates, passed_over), api = translated, OTHER_API[api]
    spill_after_s = max([entry.children[one.name].spill_after_s for one in candidates], default=0.0)
    used, others = _by_tier(candidates, spill_after_s)
    compared = warm_first(used, entry.children)
    passed_over += [_later(one) for one in used if one not in compared]
    used = _with_chances(compared, entry.dispatch, known)
    others = [msgspec.structs.replace(one, chance=0.0) for one in _with_chances(others, entry.dispatch, known)]
    likeliest = max(used, key=lambda one: one.chance, default=None)
    reason = ""
    if likeliest is not None and known is not None and entry.dispatch == "prefix":
        reason = _why(likeliest, used, known)
    name = likeliest.name if likeliest else ""
    return Level(entry.name, entry.dispatch, api, used + others, passed_over, name, reason)


def _by_tier(candidates: list[Candidate], spill_after_s: float) -> tuple[list[Candidate], list[Candidate]]:
    """The candidates of the tier that is used now, and those of all others. Without tiers, all are used."""
    tiers: dict[int, list[Candidate]] = {}
    for one in candidates:
        tiers.setdefault(one.tier or 0, []).append(one)
    order = sorted(tiers)
    if len(order) < 2:
        return candidates, []
    used = order[kept([min(one.wait_s or 0.0 for one in tiers[number]) for number in order], spill_after_s)]
    return tiers.pop(used), [one for number in order if number != used for one in tiers[number]]


def _with_chances(candidates: list[Candidate], policy: str, known: Known | None) -> list[Candidate]:
    """What the policy compares, and how likely it takes each."""
    replace = msgspec.structs.replace
    by_slots = bool(candidates) and all(one.slots for one in candidates)
    if by_slots:  # then a free slot comes first
        candidates = [replace(one, busy=busy_of(one, one.load, one.speed)) for one in candidates]
    if policy == "prefix":
        candidates = _with_costs(candidates)
        odds = chances("prefix", [(one.cost, one.speed) for one in candidates])
        if known is not None and any(one.name == known.sticky for one in candidates):
            odds = [float(one.name == known.sticky) for one in candidates]
    else:
        odds = chances(policy, [(one.busy if by_slots else one.score, one.speed) for one in candidates])
    return [replace(one, chance=chance) for one, chance in zip(candidates, odds, strict=True)]


def _later(one: Candidate) -> PassedOver:
    return PassedOver(one.name, one.kind, one.link, why_later(one.load_s))


def _with_costs(candidates: list[Candidate]) -> list[Candidate]:
    match_weight = weight_among([one.pending / one.speed for one in candidates if one.speed])
    shared = common_among([one.match for one in candidates])
    return [
        msgspec.structs.replace(one, cost=cost_of(one, one.load, one.speed, match_weight, shared)) for one in candidates
    ]


def _why(likeliest: Candidate, candidates: list[Candidate], known: Known) -> str:
    """The reason that would be counted."""
    if len(candidates) == 1:
        return ""
    if likeliest.name == known.sticky:
        return STICKY
    if likeliest.match:
        return MATCH
    return SPREAD if any(one.match for one in candidates) else NO_MATCH


def _decode_children(entry: TreeEntry) -> Steps[None]:
    """Let `entry.children` cost nothing."""
    children = {}
    for key, child in entry.each_child():
        children[key] = child
        yield
    entry.__dict__["children"] = children


def _split(
    entry: TreeEntry, model: str, api: Api, known: Known | None, require: Requirement | None
) -> Steps[tuple[list[Candidate], list[PassedOver]]]:
    """A node's children: those that may get a request for the model through this API family, and all others.

    Suspects may where there is nothing better, and then ejected ones.
    """
    candidates: list[Candidate] = []
    passed_over: list[PassedOver] = []
    rows = {name: _row(child, model, api) for name, child in entry.children.items()}
    lacking: dict[str, str] = {}
    if require is not None:
        for name, child in entry.children.items():
            lacking[name] = yield from _lacks(child, model, require)
    ranks = {name: None if lacking.get(name) else _rank(child, rows[name]) for name, child in entry.children.items()}
    best = min((rank for rank in ranks.values() if rank is not None), default=None)
    for name, child in entry.children.items():
        row, rank = rows[name], ranks[name]
        if row is not None and rank is not None and rank == best:
            load, speed = (row.queue_length or 0) + row.penalty, row.speed or 0.0
            score = load / speed if speed else 0.0
            terms = read(child, row, None if known is None else known.matches.get(name, 0))
            candidates.append(
                Candidate(name, load, speed, child.kind, child.link, score, error_rate=row.error_rate or 0.0,
                          penalty=row.penalty, hit_rate=row.hit_rate, engine_hit_rate=row.engine_hit_rate,
                          labels=known_labels(child.labels), **msgspec.structs.asdict(terms))
            )  # fmt: skip
        else:
            reason = yield from _reason(child, model, api)
            if lacking.get(name) and child.serves(model):
                reason = lacking[name]
            passed_over.append(PassedOver(name, child.kind, child.link, reason))
        yield
    return candidates, passed_over


def _lacks(child: TreeEntry, model: str, require: Requirement, depth: int = 0) -> Steps[str]:
    """Which labels a child, or all below it that serves the model, does not have; "" if it has what is required."""
    if not (require.met_by(child.labels) or (child.is_node and require.met_by(child.labels, dict(require.pairs)))):
        known = write(known_labels(child.labels))
        return f"is not known to have {require.text}" + (f", but {known}" if known else "")
    if not child.is_node or not child.raw_children or depth >= MAX_DEPTH:
        return ""
    below = require.below(child.labels)
    for _, one in child.each_child():
        if one.serves(model) and not (yield from _lacks(one, model, below, depth + 1)):
            return ""
        yield
    return f"nothing below it that serves {model} has {require.text}"


def _rank(child: TreeEntry, row: ModelEntry | None) -> int | None:
    """0: it serves the model; 1: where nothing else does; 2: as the last resort; None: it does not."""
    if row is None or not child.may_serve:
        return None
    if child.state == "ejected" or row.detail:
        return 2
    return 1 if child.state == "suspect" or row.avoid else 0


def _row(entry: TreeEntry, model: str, api: str) -> ModelEntry | None:
    return next((row for row in entry.models if (row.name, row.api) == (model, api)), None)


# -- chances -------------------------------------------------------------------------------------------------


def chances(policy: str, scores: Scores) -> list[float]:
    """The probability, 0 to 1, that a policy (see `balancing.policy`) takes each of some (score, speed).

    A policy that is not known is treated as `shortest_queue`. If no speed is known, all are equally likely.
    """
    if not scores:
        return []
    formula = _CHANCES.get(policy, shortest_queue) if any(speed for _, speed in scores) else equal
    return formula(scores)


def equal(scores: Scores) -> list[float]:
    """`round_robin`: each in turn."""
    return [1 / len(scores)] * len(scores)


def lottery(scores: Scores) -> list[float]:
    """Proportional to speed."""
    total = sum(speed for _, speed in scores)
    return [speed / total for _, speed in scores]


def shortest_queue(scores: Scores) -> list[float]:
    """The least score; among equals proportional to speed."""
    least = min(score for score, _ in scores)
    equals = sum(speed for score, speed in scores if score == least)
    if not equals:
        return [float(score == least) / sum(other == least for other, _ in scores) for score, _ in scores]
    return [speed / equals if score == least else 0.0 for score, speed in scores]


def prefix(scores: Scores) -> list[float]:
    """The least score; equals in turn. What its prompt begins with may take a request elsewhere."""
    least = min(score for score, _ in scores)
    equals = sum(score == least for score, _ in scores)
    return [float(score == least) / equals for score, _ in scores]


def p2c(scores: Scores) -> list[float]:
    """The better of two different ones, each drawn by speed; of equals the first drawn."""
    if len(scores) == 1:
        return [1.0]
    total = sum(speed for _, speed in scores)
    # `first[n]`: that n is drawn first, divided by what is left for the second draw
    first = [speed / total / (total - speed) if total > speed else 0.0 for _, speed in scores]
    taken = [0.0] * len(scores)
    worse_speed = worse_first = 0.0  # sums over those with a higher score
    for _, group in groupby(sorted(range(len(scores)), key=lambda n: -scores[n][0]), key=lambda n: scores[n][0]):
        equals = list(group)
        equal_speed = sum(scores[n][1] for n in equals)
        for n in equals:
            speed = scores[n][1]
            others = worse_speed + equal_speed - speed  # drawn second; none is better
            taken[n] = first[n] * max(0.0, others) + speed * worse_first
        worse_speed += equal_speed
        worse_first += sum(first[n] for n in equals)
    return taken


_CHANCES: dict[str, Callable[[Scores], list[float]]] = {
    "round_robin": equal,
    "lottery": lottery,
    "p2c": p2c,
    "prefix": prefix,
    "shortest_queue": shortest_queue,
}


# -- reasons -------------------------------------------------------------------------------------------------


def _reason(child: TreeEntry, model: str, api: Api) -> Steps[str]:
    """Why a child is not a candidate."""
    engines = yield from _engines_serving(child, model)
    families = {row.api for _, engine in engines for row in engine.models if row.name == model}
    if not families:
        return f"does not serve {model}"
    if api not in families:
        served = " and ".join(sorted(families))
        return f"serves {model} through the {served} API only; other children serve it through the {api} API"
    if child.state != "up":
        return f"{child.state}: {child.detail}" if child.detail else child.state
    row = _row(child, model, api)
    if row is not None and (row.avoid or row.detail):
        return f"{model} is ejected there: {row.detail}" if row.detail else f"{model} is suspect or ejected below it"
    unavailable = [_why_unavailable(path, engine) for path, engine in engines if engine.serves(model, api)]
    more = f", and {len(unavailable) - MAX_NAMED} more" if len(unavailable) > MAX_NAMED else ""
    return f"no engine below it can take {model} now: {', '.join(unavailable[:MAX_NAMED])}{more}"


def _why_unavailable(path: str, engine: TreeEntry) -> str:
    state = "up, but below a node that is not, or only since its last report" if engine.state == "up" else engine.state
    return f"{path} is {state}" + (f" ({engine.detail})" if engine.detail else "")


def _engines_serving(child: TreeEntry, model: str) -> Steps[list[tuple[str, TreeEntry]]]:
    """The engines that list a model: the child itself, or those below it, with their paths."""
    found = []
    for path, engine in child.engines() if child.is_node else ():
        if engine.serves(model):
            found.append((path, engine))
        yield
    if not found and child.serves(model):  # an engine, or a node of a release that sends no subtree
        found = [(child.name, child)]
    return found

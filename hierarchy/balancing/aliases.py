"""`aliases:`: names that stand for other models, in an order of preference and with shares of the requests.

    aliases: {gpt-4o: [qwen-72b, {model: qwen-7b, weight: 1}]}

Of the requests for gpt-4o one percent tries qwen-7b first, all others qwen-72b, and each goes on with the other where
its first cannot be had. An alias is resolved once, at the entry node; below it nobody knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from hierarchy.config.model_names import MAX_WEIGHT, Target


class Aliases:
    """Which models to try for a name. rng: injected; drawn from only where there are weights."""

    def __init__(self, aliases: Mapping[str, Sequence[Target]], rng: Random) -> None:
        self._rng = rng
        self.renew(aliases)

    def renew(self, aliases: Mapping[str, Sequence[Target]]) -> None:
        """Go on with these instead."""
        self._aliases = {name: [target.model for target in targets] for name, targets in aliases.items()}
        self._firsts = {name: firsts(targets) for name, targets in aliases.items()}

    def __bool__(self) -> bool:
        return bool(self._aliases)

    def __contains__(self, name: object) -> bool:
        return name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def models(self, name: str) -> list[str]:
        """What an alias stands for, as it was written; [] for a name that is none."""
        return self._aliases.get(name, [])

    def order(self, name: str) -> list[str]:
        """The models to try for one request, the first by its share of the requests; [name] if it is no alias."""
        models = self._aliases.get(name)
        if models is None:
            return [name]
        shares = self._firsts[name]
        if len(shares) == 1:
            first = next(iter(shares))
        else:
            (first,) = self._rng.choices(list(shares), list(shares.values()))
        return [first, *(model for model in models if model != first)]


def firsts(targets: Sequence[Target]) -> dict[str, float]:
    """Percent of the requests that try each model first; models that none does are left out.

    What the weights leave over is the first unweighted model's; the other unweighted ones are for fallback alone.
    """
    left = MAX_WEIGHT - sum(target.weight or 0.0 for target in targets)
    shares: dict[str, float] = {}
    for target in targets:
        share, left = (left, 0.0) if target.weight is None else (target.weight, left)
        if share > 0:
            shares[target.model] = share
    return shares

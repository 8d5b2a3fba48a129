"""`aliases:`: names that stand for other models, in order of preference and with shares of the requests.

    aliases: {gpt-4o: [qwen-72b, {model: qwen-7b, weight: 1}]}

One percent of the requests for gpt-4o try qwen-7b first, all others qwen-72b; if the first model is not available,
the other is tried. The entry node resolves an alias, once; the nodes below see only the model's own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from hierarchy.config.model_names import MAX_WEIGHT, Target


class Aliases:
    """Which models to try for a name. rng: injected; used only for aliases with weights."""

    def __init__(self, aliases: Mapping[str, Sequence[Target]], rng: Random) -> None:
        self._rng = rng
        self.replace(aliases)

    def replace(self, aliases: Mapping[str, Sequence[Target]]) -> None:
        """Resolve these aliases from now on, and no others."""
        self._aliases = {name: [target.model for target in targets] for name, targets in aliases.items()}
        self._first_shares = {name: first_shares(targets) for name, targets in aliases.items()}

    def __bool__(self) -> bool:
        return bool(self._aliases)

    def __contains__(self, name: object) -> bool:
        return name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def models(self, name: str) -> list[str]:
        """The models of an alias, in the configured order; [] for a name that is not an alias."""
        return self._aliases.get(name, [])

    def order(self, name: str) -> list[str]:
        """The models to try for one request; [name] if it is not an alias. The first is drawn by its share."""
        models = self._aliases.get(name)
        if models is None:
            return [name]
        shares = self._first_shares[name]
        if len(shares) == 1:
            first = next(iter(shares))
        else:
            (first,) = self._rng.choices(list(shares), list(shares.values()))
        return [first, *(model for model in models if model != first)]


def first_shares(targets: Sequence[Target]) -> dict[str, float]:
    """Percent of the requests that try each model first; a model with 0 % is left out.

    The first model without a weight gets what the weights leave; others without a weight are for fallback only.
    """
    left = MAX_WEIGHT - sum(target.weight or 0.0 for target in targets)
    shares: dict[str, float] = {}
    for target in targets:
        share, left = (left, 0.0) if target.weight is None else (target.weight, left)
        if share > 0:
            shares[target.model] = share
    return shares

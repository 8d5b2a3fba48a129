"""From a model's name to a lease on one child: candidates → policy → lease."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import get_args

from hierarchy.aliases import Aliases
from hierarchy.child import Child, Lease, Share
from hierarchy.errors import ModelNotFound, RequestError, Unavailable
from hierarchy.naming import Target
from hierarchy.policy import POLICIES, Candidates
from hierarchy.registry import Registry
from hierarchy.status import Api, ModelKey

OTHER: dict[Api, Api] = {"openai": "fastchat", "fastchat": "openai"}


class Dispatch:
    """Chooses among the registry's children by one policy. aliases: what an entry node resolves; None: nothing."""

    def __init__(self, registry: Registry, policy: str, rng: Random, aliases: Aliases | None = None) -> None:
        self._registry = registry
        self._aliases = Aliases({}, rng) if aliases is None else aliases
        self.aliased = frozenset(self._aliases)  # names worth a `resolve`, so that the others cost one look-up
        self._policy = POLICIES[policy]()
        self._rng = rng
        self._candidates: dict[ModelKey, Candidates] = {}

    def follow(self, policy: str) -> None:
        """Choose by another policy from now on."""
        self._policy = POLICIES[policy]()

    def rename(self, aliases: Mapping[str, Sequence[Target]]) -> None:
        """Resolve these aliases from now on."""
        self._aliases.renew(aliases)
        self.aliased = frozenset(self._aliases)

    def choose(self, key: ModelKey, tried: Collection[Child] = ()) -> Share:
        """The share that the policy takes, without claiming it.

        tried: children that this request has already failed on; they are not taken again.

        Raises:
            ModelNotFound: nobody below serves it in this API family.
            Unavailable: somebody does, but none that may be chosen now (or all were tried).
        """
        shares = self._registry.available(key)
        if not shares:
            shares = self._registry.last_resort(key)
        candidates = self._candidates.get(key)
        if candidates is None or candidates.shares is not shares or tried:
            candidates = self._other_candidates(key, shares, tried)
        return self._policy(candidates, self._rng)

    def lease(self, key: ModelKey, tried: Collection[Child] = ()) -> Lease:
        """Choose, and claim the child for one request. Raises as `choose`."""
        share = self.choose(key, tried)
        return share.child.lease(share)

    def _other_candidates(self, key: ModelKey, shares: list[Share], tried: Collection[Child]) -> Candidates:
        """Others than at the last choice for this model, or other than those tried."""
        if not shares:
            raise self._nobody(key)
        if tried:
            untried = [share for share in shares if share.child not in tried] or [
                share for share in self._registry.last_resort(key) if share.child not in tried
            ]
            if not untried:
                raise Unavailable(f"every child that serves model {key[0]!r} failed on this request")
            return Candidates(untried)
        if len(self._candidates) > 1024:
            self._candidates.clear()
        candidates = self._candidates[key] = Candidates(shares)
        return candidates

    def resolve(self, name: str, api: Api) -> str:
        """The model that a name in a client's request stands for: itself, unless it is an alias.

        Of an alias's models the first that can be had now, else the first that is served at all, else the first.
        """
        if name not in self.aliased:
            return name
        order = self._aliases.order(name)
        available = (model for model in order if self._registry.available((model, api)))
        listed = (model for model in order if self._registry.listed(model, api))
        return next(available, None) or next(listed, None) or order[0]

    def hand_out(self, model: str) -> Child | None:
        """The child whose address is given away for a model, whatever API it serves it by; None if there is none."""
        for api in get_args(Api):
            try:
                share = self.choose((model, api))
            except RequestError:
                continue
            share.child.hand_out(share)
            return share.child
        return None

    def _nobody(self, key: ModelKey) -> ModelNotFound | Unavailable:
        name, api = key
        model = name if len(name) <= 100 else f"{name[:100]}..."  # it is the client's, and as long as it likes
        if self._registry.listed(name, api):
            return Unavailable(
                f"model {model!r} is served here, but no child that serves it is available now; try again"
            )
        if self._registry.listed(name):
            return ModelNotFound(
                f"model {model!r} is served here through the {OTHER[api]} API only, not through {api}'s"
            )
        names = self._registry.model_names()
        known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none at the moment"
        return ModelNotFound(f"no child serves model {model!r}; models here: {known}")

"""From a model's name to a lease on one child: candidates → policy → lease."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Final

from hierarchy.balancing.aliases import Aliases
from hierarchy.balancing.candidates import Candidates
from hierarchy.balancing.policy import POLICIES, Policy
from hierarchy.balancing.prefix_choice import Known, PrefixChoice
from hierarchy.balancing.tiers import Tiers
from hierarchy.balancing.warm_first import warm_first
from hierarchy.config.model_names import Target
from hierarchy.errors import ModelNotFound, RequestError, RequirementUnmet, Unavailable
from hierarchy.labels import Requirement
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.registry import Registry, is_avoided
from hierarchy.registry.child import Child, Lease, Share
from hierarchy.wire.status import OTHER_API, Api, ModelKey

MAX_REMEMBERED: Final = 1024  # models whose candidates are kept between two requests
UNMET_RETRY_S: Final = 30  # until then it is not worthwhile to require again what no child has
MAX_NAME_SHOWN, MAX_MODELS_SHOWN = 100, 10  # in an error message: characters of the client's text; models here


class Dispatch:
    """Chooses among the registry's children by one policy.

    rng: injected. aliases: those that this node resolves; None for a node that resolves none.
    """

    def __init__(self, registry: Registry, policy: str, rng: Random, aliases: Aliases | None = None) -> None:
        self._registry = registry
        self._aliases = Aliases({}, rng) if aliases is None else aliases
        self.aliased = frozenset(self._aliases)  # names worth a call of `resolve`; all others cost one look-up
        self._policy_name = policy
        self._policy: Policy = POLICIES[policy]()
        self.tiers: Tiers | None = None  # of the children, if this node prefers some; the policy chooses within one
        self.prefixes = self._by_prefix()
        self._rng = rng
        self._candidates: dict[ModelKey, Candidates] = {}
        self._required: dict[tuple[ModelKey, Requirement], Candidates] = {}  # of requests that require labels

    def set_policy(self, policy: str) -> None:
        """Choose by this policy from now on; if it is the same as before, with what it remembers."""
        if policy == self._policy_name:
            return
        self._policy_name, self._policy = policy, POLICIES[policy]()
        self.prefixes = self._by_prefix()

    def set_tiers(self, prefer: Sequence[Sequence[str]], spill_after_s: float) -> None:
        """Prefer children from now on. prefer: names, tier by tier; none: all children are equal."""
        self.tiers = Tiers(prefer, spill_after_s, self.tiers) if prefer else None
        self._candidates.clear()  # those of a node with tiers are kept there
        self._required.clear()
        if self.prefixes is not None:
            self.prefixes.notes_all = self.tiers is not None

    def sweep_tiers(self) -> None:
        """Measure what the tiers are compared by. Call it twice a second."""
        if self.tiers is not None:
            self.tiers.sweep(self._registry, self._registry.now())

    def _by_prefix(self) -> PrefixChoice | None:
        """The policy, if it chooses by what a prompt begins with."""
        if not isinstance(self._policy, PrefixChoice):
            return None
        self._policy.notes_all = self.tiers is not None
        return self._policy

    def set_aliases(self, aliases: Mapping[str, Sequence[Target]]) -> None:
        """Resolve these aliases from now on."""
        self._aliases.replace(aliases)
        self.aliased = frozenset(self._aliases)

    def choose(
        self,
        key: ModelKey,
        tried: Collection[Child] = (),
        *,
        translated: bool = False,
        elsewhere: bool = False,
        prefix: Fingerprint | None = None,
        require: Requirement | None = None,
    ) -> Share:
        """The share that the policy takes, without a claim on it.

        tried: children that have failed on this request; they are not taken again. translated: the request can be
        translated, so if no child is available through this API family, the other family is used. elsewhere: others
        than this node can serve the request, so none is taken that is suspect or ejected. prefix: what the prompt
        begins with, if that is known. require: the labels that the child must have; None for none.

        Raises:
            ModelNotFound: no child serves the model through this API family (or through either).
            RequirementUnmet: children serve it, but none that has these labels.
            Unavailable: children serve it, or may serve it soon, but none is available now (or all were tried).
        """
        if require is not None:
            shares = self._registry.allowed(key, require)
            if shares and not tried and not (elsewhere and is_avoided(shares)):
                return self._among(self._with_labels(key, shares, require), prefix)
            return self._choose_rarely(key, shares, tried, translated, elsewhere, prefix, require)
        shares = self._registry.available(key)
        if shares and not tried and not (elsewhere and is_avoided(shares)):  # the most common case
            candidates = self._candidates.get(key)
            if candidates is None or candidates.shares is not shares:
                candidates = self._remember(key, shares)
            return self._among(candidates, prefix)
        return self._choose_rarely(key, shares, tried, translated, elsewhere, prefix, None)

    def _choose_rarely(
        self,
        key: ModelKey,
        shares: list[Share],
        tried: Collection[Child],
        translated: bool,
        elsewhere: bool,
        prefix: Fingerprint | None,
        require: Requirement | None,
    ) -> Share:
        """`choose`, where not all available shares may be taken, or there are none."""
        try:
            return self._among(self._untried(key, shares, tried, require, elsewhere=elsewhere), prefix)
        except RequestError as error:
            if not translated:
                raise
            try:
                other_key = key[0], OTHER_API[key[1]]
                return self.choose(other_key, tried, elsewhere=elsewhere, prefix=prefix, require=require)
            except Unavailable as other:
                raise (error if isinstance(error, Unavailable) else other) from None
            except ModelNotFound:
                raise error from None

    def _among(self, candidates: Candidates, prefix: Fingerprint | None) -> Share:
        prefixes = self.prefixes
        if prefix is None or prefixes is None:
            if candidates.has_cold:
                candidates = warm_first(candidates)
            return self._policy(candidates, self._rng)
        return prefixes.choose(candidates, prefix, self._rng)

    def lease(
        self,
        key: ModelKey,
        tried: Collection[Child] = (),
        *,
        translated: bool = False,
        elsewhere: bool = False,
        prefix: Fingerprint | None = None,
        require: Requirement | None = None,
    ) -> Lease:
        """Choose, and claim the child for one request. Takes and raises what `choose` does."""
        share = self.choose(key, tried, translated=translated, elsewhere=elsewhere, prefix=prefix, require=require)
        lease = share.child.lease(share)
        if share.load_s:
            self._registry.begin_load(share)
        if prefix is not None and self.prefixes is not None:
            self.prefixes.sent(lease, prefix)
        return lease

    def known(self, key: ModelKey, prefix: Fingerprint, require: Requirement | None = None) -> Known | None:
        """What is known here of a prompt, for `hierarchy why`; None if the policy does not look at prompts."""
        if self.prefixes is None:
            return None
        shares = self._registry.allowed(key, require) or self._registry.last_resort(key, require)
        return self.prefixes.known(Candidates(shares), prefix) if shares else None

    def compares(self, key: ModelKey) -> bool:
        """May a choice for this model, here or below, depend on what a prompt begins with?"""
        if self.prefixes is None:
            return False
        shares = self._registry.available(key)
        return len(shares) != 1 or shares[0].child.is_node

    def _untried(
        self,
        key: ModelKey,
        shares: list[Share],
        tried: Collection[Child],
        require: Requirement | None,
        *,
        elsewhere: bool,
    ) -> Candidates:
        """The available shares that were not tried; if there are none, ejected ones. Raises as `choose`."""
        last_resort = self._registry.last_resort(key, require)
        if not (shares or last_resort):
            raise self._no_candidate(key, require)
        if elsewhere:
            last_resort = []
            if is_avoided(shares):
                raise Unavailable(f"every child that serves model {key[0]!r} is suspect or ejected{_with(require)}")
        for some in (shares, last_resort):
            untried = [share for share in some if share.child not in tried]
            if untried:
                return Candidates(untried) if self.tiers is None else self.tiers.narrowed(untried, self._rng)
        raise Unavailable(f"every child that serves model {key[0]!r} failed on this request{_with(require)}")

    def _remember(self, key: ModelKey, shares: list[Share]) -> Candidates:
        if self.tiers is not None:
            return self.tiers.remembered(key, shares, self._rng)
        if len(self._candidates) > MAX_REMEMBERED:
            self._candidates.clear()
        candidates = self._candidates[key] = Candidates(shares)
        return candidates

    def _with_labels(self, key: ModelKey, shares: list[Share], require: Requirement) -> Candidates:
        if self.tiers is not None:
            return self.tiers.remembered(key, shares, self._rng, require)
        candidates = self._required.get((key, require))
        if candidates is None or candidates.shares is not shares:
            if len(self._required) > MAX_REMEMBERED:
                self._required.clear()
            candidates = self._required[key, require] = Candidates(shares)
        return candidates

    def forget_candidates(self) -> None:
        """Forget candidates that the registry would no longer return: they keep children in memory that are gone."""
        current = self._registry.are_current
        self._candidates = {key: kept for key, kept in self._candidates.items() if current(key, kept.shares)}
        if self.tiers is not None:
            self.tiers.forget(current)
        self._required = {key: kept for key, kept in self._required.items() if current(key[0], kept.shares, key[1])}

    def resolve(self, name: str, api: Api, *, translated: bool = False, require: Requirement | None = None) -> str:
        """The model that a name in a client's request stands for: itself, unless it is an alias.

        Of an alias's models the first that is available now, else the first that is served at all, else the first.
        """
        if name not in self.aliased:
            return name
        order = self._aliases.order(name)
        apis = (api, OTHER_API[api]) if translated else (api,)
        available = (model for model in order if any(self._registry.allowed((model, api), require) for api in apis))
        listed = (model for model in order if any(self._registry.listed(model, api) for api in apis))
        return next(available, None) or next(listed, None) or order[0]

    def models(self, name: str) -> list[str]:
        """The models that a name stands for, of which any will do: itself, unless it is an alias."""
        return self._aliases.models(name) or [name]

    def hand_out(self, model: str, require: Requirement | None = None) -> Share:
        """The share whose child's address FastChat's clients get, through either API. Raises as `choose`."""
        share = self.choose((model, "fastchat"), translated=True, require=require)
        if share.child.asleep:  # a client that dials it by itself would not wake it up
            raise Unavailable(f"model {model[:MAX_NAME_SHOWN]!r} is not loaded; a request to this node would load it")
        share.child.hand_out(share)
        return share

    def unmet(self, model: str, require: Requirement, tried: str = "") -> RequirementUnmet:
        """The error for a request that no child with the labels which it requires can serve.

        tried: what became of it at those that have them, as a sentence; "" if there is none.
        """
        shown = model if len(model) <= MAX_NAME_SHOWN else f"{model[:MAX_NAME_SHOWN]}..."
        patience_s = 0.0 if tried else self._registry.may_return(model, require)
        wait_s = UNMET_RETRY_S if not (tried or patience_s) else 1
        what = f"none is left for it: {tried}" if tried else "no child that has it can serve the model now"
        event = f"no child for model {shown!r} has {require.text}"
        return RequirementUnmet(
            f"model {shown!r} is required with {require.text}, and {what}", wait_s, patience_s, event
        )

    def _no_candidate(self, key: ModelKey, require: Requirement | None) -> ModelNotFound | Unavailable:
        name, api = key
        if require is not None and self._may_exist(key):
            return self.unmet(name, require)
        model = name if len(name) <= MAX_NAME_SHOWN else f"{name[:MAX_NAME_SHOWN]}..."
        absence = self._registry.absence(key)
        if absence is not None:
            now = self._registry.now()
            wait_s = absence.retry_after_s(now)
            message = f"model {model!r} {absence.why}; try again in {wait_s} s"
            return Unavailable(message, wait_s, absence.patience_s(now), absence.event)
        if self._registry.listed(name):
            return ModelNotFound(
                f"model {model!r} is served here through the {OTHER_API[api]} API only, not through {api}'s"
            )
        return self.not_found(name, None)

    def _may_exist(self, key: ModelKey) -> bool:
        """Is the model served through this API family, by whatever child, or may it be soon?"""
        name, api = key
        if self._registry.listed(name):
            return self._registry.listed(name, api)
        return self._registry.absence(key) is not None

    def not_found(self, name: str, usable: frozenset[str] | None) -> ModelNotFound:
        """The error for a model that no child serves. usable: the only models that the caller may know of."""
        if usable is None:
            names = self._registry.some_names(MAX_MODELS_SHOWN + 1)
        else:
            known = (model for model in sorted(usable) if model in self.aliased or self._registry.listed(model))
            names = list(itertools.islice(known, MAX_MODELS_SHOWN + 1))
        model = name if len(name) <= MAX_NAME_SHOWN else f"{name[:MAX_NAME_SHOWN]}..."
        more = ", ..." if len(names) > MAX_MODELS_SHOWN else ""
        if names:
            here = f"models here: {', '.join(names[:MAX_MODELS_SHOWN])}{more}"
        else:
            here = "models here: none at the moment" if usable is None else "GET /v1/models lists what you may use"
        error = ModelNotFound(f"no child serves model {model!r}; {here}")
        error.lists_models = usable is None
        return error


def _with(require: Requirement | None) -> str:
    """For the end of a sentence about all children."""
    return "" if require is None else f"; required is {require.text}"

"""One node or engine as `GET /tree` shows it, decoded into a frozen record.

The JSON comes from other machines and is not trusted: a malformed field gets its default, a malformed child is left
out. It travels up the tree as it came, fields of later releases included, and is decoded only where a program reads
it, one level at a time. So a report costs nothing here, however large its subtree is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

MAX_DEPTH = 64  #: levels of nodes that are followed; deeper JSON, or an entry that contains itself, is cut off
#: states in which a child gets requests: a suspect or an ejected one where nothing else serves the model
SERVING = ("up", "suspect", "ejected")

Text = Annotated[str, Meta(min_length=1)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]  # finite, so that JSON can carry it
Part = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ModelEntry(msgspec.Struct, frozen=True):
    """One model that a node or engine lists, through one API family."""

    #: the name that clients request
    name: Text
    #: API family: `openai`, `fastchat`, or one of a later release
    api: Text = "openai"
    #: capacity weight; None: unknown
    speed: Amount | None = None
    #: requests running plus waiting; None: unknown
    queue_length: Count | None = None
    #: requests that can run at once; 0: unknown
    slots: Count = 0
    #: tokens/s of prompts that its engines read, as measured; 0: not measured
    prefill: Amount = 0.0
    #: tokens/s that its engines write for one stream each; 0: not measured
    decode: Amount = 0.0
    #: it is used only where nothing else serves the model
    avoid: bool = False
    #: part of its responses in the last 10 to 20 seconds that were failures, 0 to 1
    error_rate: Amount = 0.0
    #: responses in that time
    responses: Count = 0
    #: requests by which its load counts as longer, since its last responses were failures
    penalty: Count = 0
    #: seconds that a request waits there until the model is loaded; 0: it is loaded
    load_s: Amount = 0.0
    #: bytes of prompts that it was sent and has to read; with `dispatch: prefix` only
    pending: Count = 0
    #: part of the prompts that its parent sent it of late that was in its cache, as far as the parent knows, 0 to 1; of
    #: an engine, with `dispatch: prefix` only; None: unknown
    hit_rate: Part | None = None
    #: the same by the engine's own count, of all its prompts
    engine_hit_rate: Part | None = None
    #: how long the node above expects a request to wait there; with `prefer` only
    wait_s: Amount = 0.0
    #: why this model alone gets no requests there; "" if it does
    detail: str = ""


class DrainEntry(msgspec.Struct, frozen=True):
    """An operator's drain."""

    #: Unix seconds; 0: unknown
    since: Amount = 0.0
    #: the operator: the name of the admin key and the address
    by: str = ""
    #: as the operator wrote it
    reason: str = ""


class TreeEntry(msgspec.Struct, frozen=True, dict=True):
    """One node or engine. A field that is missing or malformed has its default."""

    #: unique among the children of one node; the key under which the parent lists it, if it has no name
    name: Text = ""
    #: what clients read instead of a name that is a URL; "" for any other
    label: str = ""
    #: `node`, or the kind of an engine: `vllm`, `fastchat`, …
    kind: Text = "?"
    #: its address; "" if unknown
    url: str = ""
    #: `direct` (the parent dials it) or `reverse` (it dials the parent); in a configuration file also `auto`
    link: Text = "direct"
    #: `up`, `suspect`, `ejected`, `asleep`, `starting`, `down`, `silent`, `draining` or `gone`; in a configuration file
    #: `declared`
    state: Text = "?"
    #: why the state is not `up`
    detail: str = ""
    #: what is wrong with a node, for operators, whatever its state is
    warnings: tuple[str, ...] = ()
    #: random id of a node's process
    instance: str = ""
    #: a node's release
    version: str = ""
    #: id of a node's sources
    build: str = ""
    #: the name of a node's dispatch policy
    dispatch: str = ""
    #: labels that the node above knows it to have; a value "" of the name `*`: and no others
    labels: dict[str, str] = {}
    #: capacity weight, of a node the sum over its children; None: unknown
    speed: Amount | None = None
    #: requests running plus waiting; None: unknown
    queue_length: Count | None = None
    #: requests in flight that the parent sent; None: unknown
    in_flight: Count | None = None
    #: seconds from a message of the node above until its response; None: unknown
    round_trip_s: Amount | None = None
    #: of the tiers that the node above prefers, the first is 1; None: it prefers no child
    tier: Count | None = None
    #: by how many seconds the expected wait there may be longer than in the next tier
    spill_after_s: Amount = 0.0
    #: by whom it is drained, since when and why; None: no operator drained it
    drain: DrainEntry | None = None
    #: it is asleep, and a request wakes it up
    wakes: bool = False
    #: what it serves, one item for each pair of model and API family
    models: tuple[ModelEntry, ...] = ()
    #: its children, not decoded
    raw_children: dict[str, Any] = msgspec.field(default_factory=dict, name="children")

    @property
    def is_node(self) -> bool:
        """Is it a node, and not an engine?"""
        return self.kind == "node"

    @property
    def may_serve(self) -> bool:
        """May it get requests, if only as a last resort, or after it was woken up for them?"""
        return self.state in SERVING or (self.state == "asleep" and self.wakes)

    @cached_property
    def children(self) -> dict[str, TreeEntry]:
        """Its children by key, in their order; decoded when first read."""
        return dict(self.each_child())

    def each_child(self) -> Iterator[tuple[str, TreeEntry]]:
        """`children`, but each is decoded when it is reached: a node may have thousands."""
        known = self.__dict__.get("children")
        if known is not None:
            yield from known.items()
            return
        for key, child in self.raw_children.items():
            if isinstance(child, Mapping):
                yield key, decode(child, key)

    def serves(self, model: str, api: str | None = None) -> bool:
        """Does it list the model (in one API family, or in any)?"""
        return any(row.name == model and api in (None, row.api) for row in self.models)

    def engines(self, above: str = "", *, up: bool = False, depth: int = 0) -> Iterator[tuple[str, TreeEntry]]:
        """Each engine below with its path from here, as ("site-a/gpu-1", entry).

        above: is put before each path. up: only engines that serve, below nodes that do.
        depth: levels of nodes between the top and here; see `MAX_DEPTH`.
        """
        for key, child in self.each_child():
            if up and not child.may_serve:
                continue
            if not child.is_node:
                yield f"{above}{key}", child
            elif depth < MAX_DEPTH:
                yield from child.engines(f"{above}{key}/", up=up, depth=depth + 1)


_ENTRY_TYPES: dict[str, Any] = {field.encode_name: field.type for field in msgspec.structs.fields(TreeEntry)}
_MODEL_TYPES: dict[str, Any] = {field.encode_name: field.type for field in msgspec.structs.fields(ModelEntry)}
#: the second: half of a surrogate pair in a field's name; the third: an integer that is too large for a float
_MALFORMED = (msgspec.ValidationError, UnicodeEncodeError, OverflowError)


def decode(raw: Mapping[str, Any], key: str = "?") -> TreeEntry:
    """Decode one entry of `GET /tree`; never fails. key: the name under which the parent lists it."""
    try:
        entry = msgspec.convert(raw, TreeEntry)
    except _MALFORMED:
        entry = msgspec.convert(_well_formed_entry(raw), TreeEntry)
    return entry if entry.name else msgspec.structs.replace(entry, name=key)


def _well_formed_entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The well-formed fields of an entry, with the well-formed fields of each model."""
    repaired = dict(raw)
    rows, children = raw.get("models"), raw.get("children")
    if isinstance(rows, list):
        models = [_well_formed(row, _MODEL_TYPES) for row in rows if isinstance(row, Mapping)]
        repaired["models"] = [model for model in models if "name" in model]
    if isinstance(children, Mapping):
        repaired["children"] = {str(key): child for key, child in children.items()}
    return _well_formed(repaired, _ENTRY_TYPES)


def _well_formed(raw: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    return {field: raw[field] for field, kind in types.items() if field in raw and _fits(raw[field], kind)}


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except _MALFORMED:
        return False
    return True

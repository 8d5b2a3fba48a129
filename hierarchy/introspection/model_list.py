"""OpenAI's `GET /v1/models` from memory: in one pass over the tree, and kept until something changes.

Then it is made again, but of the rows only those that differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeVar, get_args

from hierarchy.balancing.aliases import Aliases
from hierarchy.introspection.tree import json_of
from hierarchy.labels import Requirement
from hierarchy.registry import Registry
from hierarchy.registry.child import NODE, Child
from hierarchy.registry.public_name import Labels
from hierarchy.runtime.steps import Steps, at_once
from hierarchy.wire.status import Api
from hierarchy.wire.tree_entry import TreeEntry

MAX_AGE_S: Final = 0.5  # a child that falls silent changes the list without an event
AT_ONCE: Final = 100  # models in one step
T = TypeVar("T")
_ONE_API: Final[dict[Api, tuple[Api]]] = {api: (api,) for api in get_args(Api)}
_INSTANCE_NUMBER = re.compile(r"~\d+(?=/)")  # of a replicated node in a path: "site~2/gpu-1"


class ModelList:
    """The models that are available now, each with the engines that serve it.

    An alias is listed, with `alias_of`, while one of its models is available.
    clock: the registry's, in seconds. created: Unix seconds, shown for each model.
    """

    def __init__(
        self, registry: Registry, clock: Callable[[], float], created: int, aliases: Aliases | None = None
    ) -> None:
        self._registry = registry
        self._aliases = aliases
        self._clock = clock
        self._created = created
        self._made_of: object = None  # the state of the registry that the rows were made of
        self._made_at = 0.0
        self._rows: dict[str, dict[str, Any]] = {}  # by model
        self._encoded = b""  # all of them

    def rows(self) -> Mapping[str, dict[str, Any]]:
        """A row for each name that clients may request; do not change it."""
        return at_once(self.rows_steps())

    def rows_steps(self) -> Steps[Mapping[str, dict[str, Any]]]:
        """`rows`, child by child."""
        registry, now = self._registry, self._clock()
        state = registry.generation, registry.subtree_changes, tuple(self._aliases or ())
        if state != self._made_of or now - self._made_at >= MAX_AGE_S:
            self._rows, self._encoded = (yield from self._make(now)), b""
            self._made_of, self._made_at = state, now
        return self._rows

    def forget(self) -> None:
        """Call it now and then: a list that nobody reads any more may be of models that are gone."""
        if self._clock() - self._made_at >= MAX_AGE_S:
            self._rows, self._encoded, self._made_of = {}, b"", None

    def encoded(self) -> bytes:
        """The response for a client that may use all of them, as JSON."""
        return at_once(self.encoded_steps())

    def encoded_steps(self) -> Steps[bytes]:
        """`encoded`, child by child."""
        rows = yield from self.rows_steps()
        if self._encoded and rows is self._rows:
            return self._encoded
        text = yield from encode_steps(rows.values())
        if rows is self._rows:  # else something has changed meanwhile
            self._encoded = text
        return text

    def rows_with_steps(
        self, rows: Mapping[str, dict[str, Any]], require: Requirement
    ) -> Steps[Mapping[str, dict[str, Any]]]:
        """Those of the rows that children with the required labels serve, and without all other children."""
        found: dict[str, dict[str, Any]] = {}
        here = {child.label if child.kind != NODE else child.group or child.name: child for child in self._registry}
        for names in batched(rows):
            for name in names:
                row = rows[name]
                models = [model for model in row.get("alias_of", [name]) if self._registry.serves_with(model, require)]
                if models:
                    allowed = {
                        name for name, child in here.items() if any(child.labels.can(one, require) for one in models)
                    }
                    served_by = [path for path in row["served_by"] if path.partition("/")[0] in allowed]
                    aliased = {"alias_of": models} if "alias_of" in row else {}
                    found[name] = {**row, "served_by": served_by, **aliased}
            yield
        return found

    def _make(self, now: float) -> Steps[dict[str, dict[str, Any]]]:
        apis: dict[str, tuple[str, ...]] = {}
        paths: dict[str, list[str]] = {}
        for child in list(self._registry):
            yield
            if child.serves_now(now):
                yield from _note_apis(child, apis)
                for path, names in _engines(child, self._registry.labels):
                    yield from _note_path(path, names, paths)
        before, rows = self._rows, dict[str, dict[str, Any]]()
        for names in batched(sorted(apis)):
            for name in names:
                rows[name] = self._row(name, sorted(apis[name]), paths.get(name, []), before.get(name))
            yield
        return rows | {row["id"]: row for row in self._alias_rows(rows)}

    def _row(
        self, name: str, apis: list[str], served_by: list[str], before: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A row; the one before, if nothing has changed."""
        if len(served_by) > 1:
            served_by = list(dict.fromkeys(served_by))  # one path for all instances of a replicated node
        if (
            before is not None
            and "alias_of" not in before
            and before["apis"] == apis
            and before["served_by"] == served_by
        ):
            return before
        about = {"id": name, "object": "model", "created": self._created, "owned_by": "hierarchy"}
        return {**about, "apis": apis, "served_by": served_by}

    def _alias_rows(self, rows: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if self._aliases is None:
            return
        for name in self._aliases:
            models = [rows[model] for model in self._aliases.models(name) if model in rows]
            if models and name not in rows:
                apis, served_by = (
                    sorted({item for row in models for item in row[key]}) for key in ("apis", "served_by")
                )
                yield self._row(name, apis, served_by) | {"alias_of": [row["id"] for row in models]}


def encode_steps(rows: Iterable[Mapping[str, Any]]) -> Steps[bytes]:
    """OpenAI's list object of these rows, as JSON."""
    pieces = []
    for some in batched(rows):
        pieces.append(json_of(some)[1:-1])
        yield
    return b'{"object":"list","data":[%b]}' % b",".join(pieces)


def batched(items: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as one step takes."""
    iterator = iter(items)
    while some := list(islice(iterator, AT_ONCE)):
        yield some


def _note_apis(child: Child, apis: dict[str, tuple[str, ...]]) -> Steps[None]:
    for keys in batched(tuple(child.shares)):
        for name, api in keys:
            known = apis.get(name)
            if known is None:
                apis[name] = _ONE_API[api]
            elif api not in known:
                apis[name] = (*known, api)
        yield


def _note_path(path: str, names: list[str], paths: dict[str, list[str]]) -> Steps[None]:
    for some in batched(names):
        for name in some:
            known = paths.get(name)
            if known is None:
                paths[name] = [path]
            elif known[-1] != path:
                known.append(path)
        yield


def _engines(child: Child, labels: Labels) -> Iterator[tuple[str, list[str]]]:
    """Path and models of each engine that serves at or below a child; paths are the same through each replica.

    labels: of this node, for workers below an older one.
    """
    if child.kind != NODE:
        yield child.label, [name for name, _ in child.shares]
        return
    node = TreeEntry(name=child.name, kind=NODE, raw_children=dict(child.subtree))
    above = _INSTANCE_NUMBER.sub("", f"{child.name}/")
    for path, engine in node.engines(up=True):
        if "://" in path:
            path = _labelled(path, engine.label, labels)
        yield above + _INSTANCE_NUMBER.sub("", path), [row.name for row in engine.models]


def _labelled(path: str, label: str, labels: Labels) -> str:
    """The path of an engine that is called after its URL, for clients. label: as the node above it reports it."""
    start = path.rfind("/", 0, path.index("://")) + 1
    return path[:start] + labels.of(label or path[start:])

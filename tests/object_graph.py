"""Everything that an object keeps in memory: the sizes of all collections that it can reach, by the path to each.

A leak is a collection that grows with what comes and goes. So what a program keeps is compared before and after, and
the path of what grew names the leak: `node.registry.departed`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import ssl
import threading
import types
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import uvloop

#: not entered: they belong to the process, or hold nothing that comes and goes
LEAVES = (
    str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.CodeType, types.GenericAlias,
    logging.Logger, logging.Handler, asyncio.AbstractEventLoop, uvloop.Loop, threading.Thread, ssl.SSLContext,
    weakref.ref, functools._lru_cache_wrapper,
)  # fmt: skip
#: the same, by name: functions of Cython, which refer to their module
LEAF_NAMES = frozenset({"cython_function_or_method", "builtin_function_or_method"})
COLLECTIONS = (dict, list, set, frozenset, deque)


def sizes(roots: Mapping[str, object], leaves: tuple[type, ...] = ()) -> Counter[str]:
    """Items in all collections at each path, and objects of this project by their class.

    Collections at one path are counted together: `node.registry.children[].shares` is the sum over all children. Each
    object is counted at the first of the shortest paths to it. leaves: further types that are not entered.
    """
    found: Counter[str] = Counter()
    queue = deque((name, root) for name, root in roots.items())
    seen: dict[int, object] = {id(root): root for root in roots.values()}  # kept, so that no id is used again
    skipped = LEAVES + leaves
    while queue:
        path, value = queue.popleft()
        if isinstance(value, COLLECTIONS):
            found[path] += len(value)
        elif type(value).__module__.startswith("hierarchy."):
            found[f"instances of {type(value).__qualname__}"] += 1
        for step, held in _held(value):
            if id(held) not in seen and not isinstance(held, skipped) and type(held).__name__ not in LEAF_NAMES:
                seen[id(held)] = held
                queue.append((path + step, held))
    return found


def _held(value: object) -> Iterator[tuple[str, object]]:
    """What an object refers to, each with its step of the path."""
    if isinstance(value, dict):
        yield from (("{}", key) for key in value)
        yield from (("[]", item) for item in value.values())
    elif isinstance(value, (*COLLECTIONS, tuple)):
        yield from (("[]", item) for item in value)
    elif isinstance(value, types.FunctionType):
        yield from (("()", cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell))
    else:
        named = dict(_attributes(value))
        yield from named.items()
        known = {id(held) for held in named.values()} | {id(vars(value)) if hasattr(value, "__dict__") else 0}
        yield from ((".*", held) for held in gc.get_referents(value) if id(held) not in known)


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """The attributes in which an object keeps others, by name; also those of compiled classes and of slots."""
    if hasattr(value, "__dict__"):
        yield from ((f".{name}", held) for name, held in vars(value).items())
    referents = {id(held) for held in gc.get_referents(value)}
    for base in type(value).__mro__:
        for name, slot in vars(base).items():
            if isinstance(slot, types.MemberDescriptorType | types.GetSetDescriptorType) and name != "__dict__":
                try:
                    held = slot.__get__(value)
                except Exception:  # an attribute that was never set, or of a transport that is closed
                    continue
                if id(held) in referents:
                    yield f".{name}", held


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """What has another size than before, one line each."""
    paths: Iterable[str] = sorted({**before, **after})
    return [
        f"{path}: {before.get(path, 0)} -> {after.get(path, 0)}"
        for path in paths
        if before.get(path, 0) != after.get(path, 0)
    ]


def unbounded_caches(modules: Iterable[Any]) -> list[str]:
    """Functions whose results are kept without a bound, although they have arguments."""
    found = []
    for module in modules:
        for name, value in vars(module).items():
            if not isinstance(value, functools._lru_cache_wrapper) or value.cache_info().maxsize is not None:
                continue
            if inspect.signature(value).parameters:
                found.append(f"{module.__name__}.{name}")
    return found

"""A large message is read in steps, as a small one is read at once."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest, BodyTooLarge, InvalidField, RequestError
from hierarchy.registry.below import merge_in_steps
from hierarchy.registry.prepared import prepare
from hierarchy.runtime.steps import at_once
from hierarchy.wire import large
from hierarchy.wire.large import Children, decode_steps
from hierarchy.wire.limits import NO_WEIGHT, ChildLimits, limits
from hierarchy.wire.listing import listing
from hierarchy.wire.messages import HeartBeat, Registration, decode
from hierarchy.wire.subtree import merge
from tests.builders import Table, nested, report, scalars, site, subtrees

MANY = 10**6
ROOMY = limits(1 << 30)
ROOMY_BUT_FEW = msgspec.structs.replace(ROOMY, message_values=1000)
PADDING = "x" * large.LARGE_BYTES


def encoded(children: Any, **fields: Any) -> bytes:
    return json.dumps(site(children=children, **fields)).encode()


def read(body: bytes, most: ChildLimits = ROOMY) -> tuple[Registration, Children | None]:
    return at_once(decode_steps(body, Registration, most))


@given(st.dictionaries(st.text(max_size=3), nested(scalars | st.none() | st.text()), max_size=5))
def test_a_large_message_is_what_it_would_be_if_it_was_small(children: dict[str, Any]) -> None:
    body = encoded({**children, "padding": PADDING})
    message, below = read(body)
    assert message == decode(body, Registration, MANY)
    assert below is not None
    assert below.value is message.children
    assert below.weight.bytes <= len(body)
    assert below.weight.values <= body.count(b",") + body.count(b"[") + body.count(b"{") + 1


@given(subtrees, nested(scalars | st.none()).filter(lambda value: isinstance(value, dict)))
def test_a_prepared_patch_is_what_is_merged_at_once(base: dict[str, Any], patch: dict[str, Any]) -> None:
    ready = at_once(merge_in_steps(Children(patch, NO_WEIGHT), base, listing(base)))
    assert ready.merged == merge(base, patch)
    assert ready.listing.keys == listing(merge(base, patch)).keys
    assert listing(ready.merged, ready.listing) is ready.listing


def test_a_small_message_is_read_at_once() -> None:
    assert read(encoded({"gpu": {}}))[1] is None
    body = json.dumps(report(warnings=[PADDING])).encode()
    message, below = at_once(decode_steps(body, HeartBeat, ROOMY))
    assert (message, below) == (decode(body, HeartBeat, MANY), None)  # large, with nothing below


@pytest.mark.parametrize(
    ("children", "error", "text"),
    [
        (f'{{"a": nan, "b": "{PADDING}"}}', BadRequest, "not JSON"),
        (f'{{"a": {{"b": 1e999}}, "b": "{PADDING}"}}', RequestError, "range"),
        (f'{{"a": {10**30}, "b": "{PADDING}"}}', InvalidField, "children"),
        (f'["{PADDING}"]', InvalidField, "children"),
        (f'{{"a": "{PADDING}", "b": ' + '{"c": ' * 300 + "1" + "}" * 300 + "}", InvalidField, "nested deeper"),
    ],
)
def test_what_cannot_be_kept_is_refused(children: str, error: type[RequestError], text: str) -> None:
    body = encoded("HERE").replace(b'"HERE"', children.encode())
    with pytest.raises(error, match=text):
        read(body)


def test_too_many_values_and_a_wrong_type_beside_are_refused() -> None:
    with pytest.raises(BodyTooLarge):
        read(encoded({"a": [1] * 2000, "b": PADDING}), ROOMY_BUT_FEW)
    with pytest.raises(InvalidField, match="seq"):
        read(encoded({"b": PADDING}, seq="one"))


def test_a_large_message_takes_many_small_steps() -> None:
    gpu = {"kind": "vllm", "state": "up", "models": [{"name": f"model-{n}", "api": "openai"} for n in range(10)]}
    rack = {"kind": "node", "state": "up", "children": {f"gpu-{n}": gpu for n in range(100)}}
    body = encoded({f"rack-{n}": rack for n in range(20)})
    assert len(body) > large.LARGE_BYTES
    assert sum(1 for _ in decode_steps(body, Registration, ROOMY)) > len(body) / (4 * large.PIECE_BYTES)
    below = read(body)[1]
    assert below is not None
    assert sum(1 for _ in merge_in_steps(below, {}, None)) > 2000  # at least one for each engine


def test_what_is_too_large_to_be_kept_below_a_child_is_not_decoded() -> None:
    body = encoded({f"{number:x}": {"kind": "vllm"} for number in range(100_000)})
    message, below = read(body, limits())
    assert below is not None
    assert below.is_too_large
    assert message.children == {}
    table = Table()
    ready = at_once(prepare(message, None, table.max_speed, table.limits, below, None))
    child = table.register(message, ready=ready)
    assert child.below_is_cut
    assert child.shares, "its requests are served"

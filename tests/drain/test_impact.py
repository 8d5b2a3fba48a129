"""Which models lose their last available engine, and what is drained: both computed from `/tree`."""

from __future__ import annotations

from typing import Any

import pytest

from hierarchy.drain.impact import models_lost
from hierarchy.drain.listing import STOPPING, Drained, drained
from hierarchy.wire.tree_entry import decode


def engine(*models: str, state: str = "up", **fields: Any) -> dict[str, Any]:
    return {"kind": "vllm", "state": state, "models": [{"name": model} for model in models], **fields}


def node(state: str = "up", **children: Any) -> dict[str, Any]:
    return {"kind": "node", "state": state, "children": {key.replace("_2", "~2"): one for key, one in children.items()}}


SITE = node(gpu1=engine("m", "only"), gpu2=engine("m"))
TREE = {
    "kind": "node",
    "children": {
        "site": SITE,
        "site~2": SITE,
        "old": {"kind": "node", "state": "up", "models": [{"name": "m"}, {"name": "x"}]},
        "broken": node(gpu=engine("only", "x", state="down")),
        "away": node("silent", gpu=engine("only")),
        "slow": node(gpu=engine("s", state="suspect")),
        "http://w:1/a": {**engine("w"), "kind": "fastchat"},
        "gpu~2": engine("tilde"),
    },
}


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("site/gpu1", ["only"]),
        ("site~2/gpu1", ["only"]),  # a drain there reaches all instances
        ("site/gpu2", []),
        ("site", ["only"]),
        ("site~2", []),
        ("old", ["x"]),
        ("broken", []),
        ("broken/gpu", []),
        ("away/gpu", []),
        ("slow/gpu", ["s"]),
        ("http://w:1/a", ["w"]),
        ("gpu~2", ["tilde"]),
        ("gpu", []),
        ("site/gpu", []),
        ("site/gpu1/x", []),
        ("nothing", []),
    ],
)
def test_the_models_that_lose_their_last_available_engine(path: str, lost: list[str]) -> None:
    assert models_lost(decode(TREE), path) == lost


def test_what_is_drained_is_listed_once_for_all_instances_that_agree() -> None:
    ann = {"since": 5.0, "by": "ann", "reason": "new GPU"}
    tree = node(
        site=node(gpu=engine(state="draining", drain=ann, in_flight=2), one=engine(state="draining", drain=ann)),
        site_2=node(gpu=engine(state="draining", drain=ann, in_flight=1), one=engine()),
        stopping=node("draining"),
        dead=engine(state="down", drain={"since": "junk"}),
        up=engine(),
    )
    assert drained(decode(tree)) == [
        Drained("site/gpu", "draining", 5.0, "ann", "new GPU", 3),
        Drained("site/one", "draining", 5.0, "ann", "new GPU", 0),
        Drained("stopping", "draining", 0.0, "", STOPPING.reason, 0),
    ]


def test_an_engine_that_a_request_would_wake_up_can_serve() -> None:
    warm, sleeper = engine("m"), engine("m", state="asleep", wakes=True)
    assert models_lost(decode(node(warm=warm, sleeper=sleeper)), "warm") == []
    assert models_lost(decode(node(sleeper=sleeper)), "sleeper") == ["m"]
    assert models_lost(decode(node(warm=warm, off=engine("m", state="asleep"))), "warm") == ["m"]

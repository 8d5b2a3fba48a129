"""Drain and status by path, where the path ends at a child of this node or does not exist."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.api.support import Api, error_of
from tests.builders import WORKER, model, site, status_of, worker


def tree() -> Api:
    api = Api()
    engine = api.node.registry.declare("gpu", "http://gpu:1", "vllm")
    api.node.registry.report(engine, status_of(model()))
    api.post("/register_worker", site("site-a"))
    api.post("/register_worker", worker())
    return api


@pytest.mark.parametrize("path", ["gpu", "site-a", WORKER])
def test_a_child_is_drained_and_undrained(path: str) -> None:
    api = tree()
    child = api.node.registry.children[path]
    now = time.time()
    page = api.post("/admin/drain", {"path": path, "reason": "new GPU"})
    assert page.pop("since") == pytest.approx(now, abs=60)
    assert page == {
        "node": "root", "child": path, "draining": True, "by": "127.0.0.1", "reason": "new GPU", "kept": False,
        "settle_s": 1.5,
    }  # fmt: skip
    assert child.state(api.clock()) == "draining"
    assert api.post("/admin/drain", {"path": path})["draining"]  # again, without effect
    assert api.post("/admin/undrain", {"path": path})["draining"] is False
    assert child.state(api.clock()) == "up"


@pytest.mark.parametrize(("path", "child"), [("site-a", site()), (WORKER, worker())])
def test_a_drained_child_that_leaves_and_comes_back_stays_drained(path: str, child: dict[str, Any]) -> None:
    api = tree()
    deregistration = {field: child[field] for field in ("worker_name", "instance", "node") if field in child}
    api.post("/admin/drain", {"path": path})
    for state in ("draining", "up"):
        assert api.post("/deregister_worker", deregistration) == {"exist": True}
        api.post("/register_worker", child)
        assert api.node.registry.children[path].state(api.clock()) == state
        api.post("/admin/undrain", {"path": path})


def test_status_is_the_entry_of_the_tree() -> None:
    api = tree()
    tree_entry = api.get("/tree").json()
    assert api.get("/admin/status").json() == tree_entry
    assert api.get("/admin/status?path=gpu").json() == tree_entry["children"]["gpu"]


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("cellar", 404, "unknown_child", "no child 'cellar' at root; children here: gpu"),
        ("cellar/gpu", 404, "unknown_child", "no child 'cellar'"),
        ("gpu/0", 404, "unknown_child", "'gpu' is an engine and has no children"),
        ("", 400, "bad_request", "is not a path"),
        ("/gpu", 400, "bad_request", "is not a path"),
        ("site-a/", 400, "bad_request", "is not a path"),
        ("/".join("a" * 40), 400, "bad_request", "is not a path"),
    ],
)
def test_an_unknown_or_malformed_path_is_an_error(path: str, status: int, code: str, message: str) -> None:
    api = tree()
    error = error_of(api.request("POST", "/admin/drain", json={"path": path}), status, code)
    assert message in error["message"]


def test_a_message_without_a_path_is_422() -> None:
    error_of(tree().request("POST", "/admin/drain", json={}), 422, "invalid_field")

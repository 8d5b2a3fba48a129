"""Drain and status by path, where the path ends at this node or leads to somebody who is not there."""

from __future__ import annotations

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
    assert api.post("/admin/drain", {"path": path}) == {"node": "root", "child": path, "draining": True}
    assert child.state(api.clock()) == "draining"
    assert api.post("/admin/drain", {"path": path})["draining"]  # again: no harm
    assert api.post("/admin/undrain", {"path": path})["draining"] is False
    assert child.state(api.clock()) == "up"


@pytest.mark.parametrize(("path", "child"), [("site-a", site()), (WORKER, worker())])
def test_a_drained_child_that_leaves_and_comes_back_stays_drained(path: str, child: dict[str, Any]) -> None:
    api = tree()
    farewell = {field: child[field] for field in ("worker_name", "instance", "node") if field in child}
    api.post("/admin/drain", {"path": path})
    for state in ("draining", "up"):
        assert api.post("/deregister_worker", farewell) == {"exist": True}
        api.post("/register_worker", child)
        assert api.node.registry.children[path].state(api.clock()) == state
        api.post("/admin/undrain", {"path": path})


def test_status_is_the_entry_of_the_tree() -> None:
    api = tree()
    whole = api.get("/tree").json()
    assert api.get("/admin/status").json() == whole
    assert api.get("/admin/status?path=gpu").json() == whole["children"]["gpu"]


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("cellar", 404, "unknown_child", "no child 'cellar' at root; children here: gpu"),
        ("cellar/gpu", 404, "unknown_child", "no child 'cellar'"),
        ("gpu/0", 404, "unknown_child", "'gpu' is an engine, and has nothing below"),
        ("", 400, "bad_request", "is no path"),
        ("/gpu", 400, "bad_request", "is no path"),
        ("site-a/", 400, "bad_request", "is no path"),
        ("/".join("a" * 40), 400, "bad_request", "is no path"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, status: int, code: str, words: str) -> None:
    api = tree()
    error = error_of(api.ask("POST", "/admin/drain", json={"path": path}), status, code)
    assert words in error["message"]


def test_a_message_without_a_path() -> None:
    error_of(tree().ask("POST", "/admin/drain", json={}), 422, "invalid_field")

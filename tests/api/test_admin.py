"""Drain and status by path, where the path ends at a child of this node or does not exist."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from hierarchy.api import admin
from hierarchy.errors import ChildFailed, DeadlinePassed
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


# -- forwarded to nodes that are replicated, fail or are slow ----------------------------------------------------------


class Below:
    """Answers what this node forwards. answers: child name -> page, (status, page) or the error of the connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        self.api = Api()
        self.answers = {name.replace("_2", "~2"): answer for name, answer in answers.items()}
        self.sent: list[tuple[str, str, str, Any]] = []
        monkeypatch.setattr(admin, "send_request", self.send)
        for number in (1, 2):
            url, name = f"http://host-{number}:1", f"site-{number}"
            self.api.post("/register_worker", site("site", url=url, instance=name, path=[name], replica=True))

    async def send(self, pool: Any, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        self.sent.append((pool.child.name, method, target, json.loads(body or b"null")))
        answer = self.answers[pool.child.name]
        if isinstance(answer, Exception):
            raise answer
        status, page = answer if isinstance(answer, tuple) else (200, answer)
        return status, json.dumps(page).encode() if isinstance(page, dict) else page


DONE = {"node": "site", "child": "gpu", "draining": True, "kept": False, "settle_s": 1.5}
HUNG, BROKEN = DeadlinePassed("site did not answer in time"), ChildFailed("site~2 refused the connection")


def test_a_drain_goes_to_all_instances_and_their_responses_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Below(monkeypatch, site=DONE, site_2={**DONE, "kept": True, "settle_s": 3.0})
    page = below.api.post("/admin/drain", {"path": "site/gpu", "reason": "new GPU", "by": "forged"})
    assert page == {**DONE, "kept": True, "settle_s": 3.0}
    message = {"path": "gpu", "reason": "new GPU", "force": False, "by": "127.0.0.1"}
    assert below.sent == [(name, "POST", "/admin/drain", message) for name in ("site", "site~2")]


def test_one_instance_in_the_path_gets_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Below(monkeypatch, site_2=DONE)
    below.api.post("/admin/undrain", {"path": "site~2/gpu"})
    assert [name for name, *_ in below.sent] == ["site~2"]


def test_an_instance_that_fails_is_named_and_the_others_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Below(monkeypatch, site=DONE, site_2=BROKEN)
    page = below.api.post("/admin/drain", {"path": "site/gpu"})
    assert page == {**DONE, "failed": {"site~2": "site~2 refused the connection"}}


@pytest.mark.parametrize(
    ("first", "status", "code", "message", "result"),
    [
        (HUNG, 504, "deadline_passed", "and may still do it: see what", "not confirmed: "),
        (BROKEN, 502, "child_failed", "refused the connection", "not confirmed: "),
        ((404, {"error": {"message": "no child", "type": "t", "param": None, "code": "unknown_child"}}), 404,
         "unknown_child", "no child", "refused: no child"),
        ((503, b"<html>"), 503, "child_failed", "site answered 503", "not confirmed: site answered 503"),
    ],
)  # fmt: skip
def test_if_no_instance_did_it_the_first_error_is_the_response(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    first: Any,
    status: int,
    code: str,
    message: str,
    result: str,
) -> None:
    caplog.set_level("INFO", "hierarchy.audit")
    below = Below(monkeypatch, site=first, site_2=HUNG)
    error = error_of(below.api.request("POST", "/admin/drain", json={"path": "site/gpu"}), status, code)
    assert message in error["message"]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "hierarchy.audit"]
    assert line.startswith(f"drain site/gpu by 127.0.0.1: {result}")


def test_the_status_below_a_replicated_node_is_that_of_all_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "gpu", "state": "draining", "in_flight": 1, "queue_length": 3, "models": [5], "children": {}}
    below = Below(monkeypatch, site=gpu, site_2={**gpu, "state": "up", "in_flight": 2, "queue_length": 2})
    assert below.api.get("/admin/status?path=site/gpu").json() == {**gpu, "state": "up", "in_flight": 3}
    assert below.api.get("/admin/status?path=site/gpu&brief=true").json()["models"] == []
    assert [target for _, _, target, _ in below.sent[1:3]] == [
        "/admin/status?path=gpu",
        "/admin/status?path=gpu&brief=true",
    ]


def test_the_state_of_a_node_is_what_the_node_above_it_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"name": "site", "state": "up", "in_flight": 1, "queue_length": 0}
    below = Below(monkeypatch, site=own, site_2=own)
    below.api.post("/admin/drain", {"path": "site", "reason": "new GPU", "force": True})
    page = below.api.get("/admin/status?path=site").json()
    assert (page["state"], page["in_flight"], page["drain"]["reason"]) == ("draining", 2, "new GPU")


@pytest.mark.parametrize("field", ["reason", "by"])
@pytest.mark.parametrize("text", ["two\nlines", "x" * 501, "\x1b[2J"])
def test_a_reason_is_one_printable_line(field: str, text: str) -> None:
    error = error_of(tree().request("POST", "/admin/drain", json={"path": "gpu", field: text}), 422, "invalid_field")
    assert error["param"] == field

"""The endpoints of FastChat's controller, as unmodified peers and nodes use them."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.model_names import parse_targets
from tests.api.support import ME, Api, error_of
from tests.builders import SITE, WORKER, model, report, site, status_of, worker

W2 = "http://w2:21002"


def test_the_life_of_a_fastchat_worker() -> None:
    api = Api()
    assert api.post("/list_models") == {"models": []}
    assert api.post("/receive_heart_beat", {"worker_name": WORKER, "queue_length": 0}) == {"exist": False}
    assert api.post("/register_worker", worker(models=["m", "n"], speed=2)) is None
    assert api.post("/list_models") == {"models": ["m", "n"]}
    assert api.post("/receive_heart_beat", {"worker_name": WORKER, "queue_length": 3}) == {"exist": True}
    assert api.post("/worker_get_status") == {"model_names": ["m", "n"], "speed": 2.0, "queue_length": 3}
    assert api.post("/get_worker_address", {"model": "m"}) == {"address": WORKER}
    api.clock.tick(90)
    assert api.post("/get_worker_address", {"model": "m"}) == {"address": ""}
    assert api.post("/list_models") == {"models": []}
    assert api.post("/refresh_all_workers") is None
    assert api.post("/receive_heart_beat", {"worker_name": WORKER, "queue_length": 0}) == {"exist": False}
    assert api.get("/test_connection").json() == "success"


def test_responses_are_the_bytes_that_fastchats_programs_compare() -> None:
    api = Api()
    assert api.request("POST", "/register_worker", json=worker()).content == b"null"
    assert api.request("POST", "/refresh_all_workers").content == b"null"
    assert api.get("/test_connection").content == b'"success"'


def test_a_worker_that_registers_without_a_status_has_no_models_yet() -> None:
    api = Api()
    assert api.post("/register_worker", {**worker(), "worker_status": None}) is None
    assert api.post("/list_models") == {"models": []}
    assert api.post("/receive_heart_beat", {"worker_name": WORKER, "queue_length": 0}) == {"exist": True}


def test_refreshing_never_empties_the_registry() -> None:
    """FastChat's own API server does it with every GET /v1/models."""
    api = Api()
    api.post("/register_worker", worker())
    api.post("/register_worker", site("site-b", model("n")))
    for _ in range(3):
        api.post("/refresh_all_workers")
        assert api.post("/list_models") == {"models": ["m", "n"]}


def test_multimodal_workers_are_listed_separately() -> None:
    api = Api()
    api.post("/register_worker", worker(models=["llava"], multimodal=True))
    api.post("/register_worker", worker(W2, models=["vicuna"]))
    assert api.post("/list_models") == {"models": ["llava", "vicuna"]}
    assert api.post("/list_multimodal_models") == {"models": ["llava"]}
    assert api.post("/list_language_models") == {"models": ["vicuna"]}


def test_addresses_alternate_or_are_this_nodes_own_if_configured() -> None:
    api, proxied = Api(), Api(address="self")
    for each in (api, proxied):
        each.post("/register_worker", worker())
        each.post("/register_worker", worker(W2))
    addresses = Counter(api.post("/get_worker_address", {"model": "m"})["address"] for _ in range(10))
    assert addresses == {WORKER: 5, W2: 5}
    assert proxied.post("/get_worker_address", {"model": "m"}) == {"address": ME}
    assert proxied.post("/get_worker_address", {"model": "nope"}) == {"address": ""}


def test_the_address_is_this_nodes_own_if_the_client_cannot_use_the_child() -> None:
    api = Api()
    engine = api.node.registry.declare("gpu", "http://gpu:1", "vllm")
    api.node.registry.report(engine, status_of(model()))
    api.post("/register_worker", site("site-a", model("n")))
    api.node.dispatch.set_aliases({"alias": parse_targets("n")})
    expected = {
        "m": ME,
        "n": SITE,
        "alias": ME,
    }  # FastChat clients do not speak an engine's API, and the child does not know the alias
    assert {name: api.post("/get_worker_address", {"model": name})["address"] for name in expected} == expected


def test_the_life_of_a_node() -> None:
    api = Api()
    response = api.post("/register_worker", site("site-a", model(speed=4)))
    identity = api.node.identity
    known = {"node": "root", "instance": identity.instance, "version": identity.version, "interval_s": 1.0}
    assert response == {**known, "link": "direct", "links_per_s": 0.0, "wanted": 0, "credential": "", "prefix_key": ""}
    assert api.post("/receive_heart_beat", report("site-a", model("n", 2, 3))) == {"exist": True}
    assert api.post("/worker_get_status") == {"model_names": ["n"], "speed": 2.0, "queue_length": 3}
    assert api.post("/deregister_worker", {"worker_name": SITE, "instance": "site-a-0"}) == {"exist": False}
    assert api.post("/list_models") == {"models": ["n"]}
    assert api.post("/deregister_worker", {"worker_name": SITE, "instance": "site-a-1"}) == {"exist": True}
    assert api.post("/list_models") == {"models": []}
    assert api.post("/receive_heart_beat", report(seq=9)) == {"exist": False}


def test_a_node_reports_no_more_often_than_its_parent_allows() -> None:
    api = Api(report_interval_s=5.0)
    assert api.post("/register_worker", site(interval_s=1.0))["interval_s"] == 5.0
    api.clock.tick(6)
    assert api.post("/receive_heart_beat", report(interval_s=1.0)) == {"exist": True}
    api.clock.tick(14)
    assert api.post("/list_models") == {"models": ["m"]}
    api.clock.tick(1)
    assert api.post("/list_models") == {"models": []}
    assert Api().post("/register_worker", site(interval_s=7.0))["interval_s"] == 7.0


def test_a_configured_engine_cannot_be_deregistered() -> None:
    api = Api()
    engine = api.node.registry.declare("gpu", "http://gpu:1", "vllm")
    api.node.registry.report(engine, status_of(model()))
    for name in ("gpu", "http://gpu:1"):
        assert api.post("/deregister_worker", {"worker_name": name}) == {"exist": False}
    assert api.post("/worker_get_status")["model_names"] == ["m"]


# invalid messages

BAD_STATUS: list[tuple[str, Any]] = [
    ("worker_status.model_names", ...),
    ("worker_status.model_names", "m"),
    ("worker_status.speed", 0),
    ("worker_status.speed", -1),
    ("worker_status.speed", "fast"),
    ("worker_status.speed", math.nan),
    ("worker_status.speed", math.inf),
    ("worker_status.queue_length", -1),
    ("worker_status.queue_length", 1.5),
    ("worker_name", ...),
    ("worker_name", 7),
    ("worker_name", "ftp://w1"),
    ("worker_name", "w1:21002"),
    ("check_heart_beat", ...),
    ("check_heart_beat", "yes"),
    ("worker_status", [1]),
]


@pytest.mark.parametrize(("field", "value"), BAD_STATUS)
def test_an_invalid_registration_is_422_and_registers_nothing(field: str, value: Any) -> None:
    api, message = Api(), worker()
    target = message["worker_status"] if "." in field else message
    last = field.rpartition(".")[2]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    response = api.request("POST", "/register_worker", content=json.dumps(message))
    error = error_of(response, 422, "invalid_field")
    assert error["param"] == field
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"
    assert len(api.node.registry) == 0


def test_a_number_too_large_for_a_float_is_422() -> None:
    body = json.dumps(worker()).replace('"speed": 1', '"speed": 1e400').encode()
    error = error_of(Api().request("POST", "/register_worker", content=body), 422, "invalid_field")
    assert error["param"] == "worker_status.speed"


@pytest.mark.parametrize(
    "path", ["/register_worker", "/receive_heart_beat", "/get_worker_address", "/deregister_worker"]
)
def test_malformed_json_is_400_and_json_that_is_not_an_object_422(path: str) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        error_of(Api().request("POST", path, content=body), 400, "bad_request")
    for body in (b"[]", b"null", b"7", b'"x"'):
        assert error_of(Api().request("POST", path, content=body), 422, "invalid_field")["param"] == "body"


def test_an_invalid_heartbeat_is_422_and_changes_nothing() -> None:
    api = Api()
    api.post("/register_worker", worker(queue_length=2))
    response = api.request("POST", "/receive_heart_beat", json={"worker_name": WORKER, "queue_length": -1})
    assert error_of(response, 422, "invalid_field")["param"] == "queue_length"
    assert api.post("/worker_get_status")["queue_length"] == 2


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": 7}, {"model": ["m"]}])
def test_a_request_for_an_address_needs_a_model(body: dict[str, Any]) -> None:
    assert error_of(Api().request("POST", "/get_worker_address", json=body), 422, "invalid_field")["param"] == "model"


def test_taken_names_and_loops_are_errors() -> None:
    api = Api()
    api.post("/register_worker", site())
    other = site(url="http://other:1", instance="other-1")
    assert "is taken" in error_of(api.request("POST", "/register_worker", json=other), 409, "name_taken")["message"]
    loop = site("site-b", path=["site-b-1", api.node.identity.instance])
    error_of(api.request("POST", "/register_worker", json=loop), 508, "loop_detected")
    error_of(api.request("POST", "/register_worker", json=worker(ME)), 508, "loop_detected")
    assert [child.name for child in api.node.registry] == ["site-a"]


def test_a_body_over_the_limit_is_413_while_it_streams() -> None:
    api, sent = Api(max_body_bytes=1024), 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 100

    error_of(api.request("POST", "/register_worker", content=endless()), 413, "body_too_large")
    assert sent == 11
    fits = json.dumps(worker()).encode().ljust(1024)
    assert api.request("POST", "/register_worker", content=fits).status_code == 200
    error_of(api.request("POST", "/register_worker", content=fits + b" "), 413, "body_too_large")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
known = st.sampled_from(
    ["worker_name", "worker_status", "models", "children", "path", "secret", "seq", "node", "model"]
)


@given(st.dictionaries(known, values, max_size=3), st.booleans())
def test_any_message_gets_a_response_and_the_tree_stays_json(odd: dict[str, Any], from_node: bool) -> None:
    api = Api()
    content = json.dumps({**(site() if from_node else worker()), **report(), **odd})
    for path in ("/register_worker", "/receive_heart_beat", "/get_worker_address", "/deregister_worker"):
        response = api.request("POST", path, content=content)
        assert response.status_code in (200, 400, 409, 422, 508)
        json.loads(response.content)
    for path in ("/tree", "/v1/models"):
        json.loads(api.get(path).content, parse_constant=pytest.fail)
    assert api.get("/metrics").status_code == 200

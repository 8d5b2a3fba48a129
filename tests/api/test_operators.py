"""The endpoints for operators and their monitoring."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.api.support import ME, Api, error_of
from tests.builders import WORKER, model, report, site, status_of, worker


def test_health_is_ok_without_any_children() -> None:
    api = Api()
    response = api.get("/health")
    assert response.status_code == 200
    me = api.node.identity
    assert response.json() == {
        "status": "ok",
        "node": "root",
        "instance": me.instance,
        "version": me.version,
        "build": me.build,
    }


def test_ready_is_200_if_a_request_could_be_served_now() -> None:
    api = Api()
    response = api.get("/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "models": []})
    assert not api.node.ready
    api.post("/register_worker", site())
    response = api.get("/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "models": ["m"]})
    assert api.node.ready
    api.clock.tick(3)
    assert api.get("/ready").status_code == 503


def test_the_tree_is_known_without_calling_children() -> None:
    api = Api()
    rack = {"kind": "node", "state": "up", "children": {"gpu-1": {"kind": "vllm", "state": "down"}}}
    api.post("/register_worker", site(children={"rack": rack}))
    api.post("/register_worker", worker())
    api.clock.tick(3)
    tree = api.get("/tree").json()
    assert (tree["name"], tree["kind"], tree["url"], tree["state"]) == ("root", "node", ME, "up")
    assert {name: entry["state"] for name, entry in tree["children"].items()} == {"site-a": "silent", WORKER: "up"}
    assert tree["children"]["site-a"]["children"] == {"rack": rack}
    assert (tree["speed"], tree["queue_length"]) == (1.0, 0)


def test_the_tree_shows_what_is_wrong_with_a_child_as_long_as_it_is() -> None:
    api = Api()
    warnings = ["the certificate expires on 2026-01-31; renew it"]
    api.post("/register_worker", site("site-a", warnings=warnings))
    assert api.get("/tree").json()["children"]["site-a"]["warnings"] == warnings
    assert "warnings" not in api.get("/tree").json()
    api.post("/receive_heart_beat", report("site-a"))
    assert "warnings" not in api.get("/tree").json()["children"]["site-a"]
    for bad in (["x"] * 17, ["x" * 1001]):
        refused = api.request("POST", "/register_worker", json=site("site-a", seq=3, warnings=bad))
        assert "has more than 16 lines" in error_of(refused, 422, "invalid_field")["message"]


def test_metrics_cover_children_uplinks_and_connections() -> None:
    api = Api()
    api.post("/register_worker", worker(speed=2, queue_length=3))
    share = api.node.dispatch.choose(("m", "fastchat"))
    lease = share.child.lease(share)
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, sample.labels.get("child")): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    lease.release()
    assert values["hierarchy_child_up", WORKER] == 1
    assert values["hierarchy_child_speed", WORKER] == 2
    assert values["hierarchy_child_queue_length", WORKER] == 4
    assert values["hierarchy_requests_in_flight", WORKER] == 1
    assert values["hierarchy_connections", None] == 0


def test_a_child_that_is_not_up_is_zero_with_its_state() -> None:
    api = Api()
    api.post("/register_worker", site())
    api.clock.tick(3)
    assert 'hierarchy_child_up{child="site-a",kind="node",state="silent"} 0.0' in api.get("/metrics").text


def test_route_requires_a_model_and_a_known_api() -> None:
    api = Api()
    error_of(api.get("/route"), 400, "bad_request")
    error_of(api.get("/route?model=m&api=x"), 400, "bad_request")
    error_of(api.get("/route?model=m"), 404, "model_not_found")
    engine = api.node.registry.declare("gpu", "http://gpu:1", "vllm")
    api.node.registry.report(engine, status_of(model()))
    route = api.get("/route?model=m").json()
    assert (route["asked"], route["model"], route["path"]) == ("m", "m", "gpu")
    other = api.get("/route?model=m&api=fastchat").json()
    assert (other["path"], other["api"], other["levels"][0]["api"]) == ("gpu", "fastchat", "openai")
    assert engine.in_flight == 0

"""OpenAI's model list, and the format of errors on every path."""

from __future__ import annotations

import time

import pytest

from tests.api.support import Api, error_of
from tests.builders import WORKER, model, site, status_of, worker

GPU = {"kind": "vllm", "state": "up", "models": [{"name": "m", "api": "openai"}]}


def test_an_empty_node_lists_no_models() -> None:
    assert Api().get("/v1/models").json() == {"object": "list", "data": []}


def test_models_are_listed_with_the_paths_that_serve_them() -> None:
    api = Api()
    engine = api.node.registry.declare("gpu", "http://gpu:1", "vllm")
    api.node.registry.report(engine, status_of(model(), model("org/name:tag")))
    api.post("/register_worker", site(children={"gpu-1": GPU}))
    api.post("/register_worker", worker())
    first, second = api.get("/v1/models").json()["data"]
    assert first == {
        "id": "m",
        "object": "model",
        "created": first["created"],
        "owned_by": "hierarchy",
        "apis": ["fastchat", "openai"],
        "served_by": ["gpu", "site-a/gpu-1", api.node.registry.labels.of(WORKER)],
    }
    assert abs(first["created"] - time.time()) < 3600
    assert (second["id"], second["apis"], second["served_by"]) == ("org/name:tag", ["openai"], ["gpu"])
    assert api.get("/v1/models/m").json() == first
    assert api.get("/v1/models/org/name:tag").json() == second
    api.clock.tick(3)
    assert api.get("/v1/models/m").json()["served_by"] == ["gpu", api.node.registry.labels.of(WORKER)]


def test_a_model_without_a_child_is_404() -> None:
    error = error_of(Api().get("/v1/models/nope"), 404, "model_not_found")
    assert (error["param"], error["type"]) == ("model", "invalid_request_error")
    assert "'nope'" in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/nope"), ("POST", "/v2/chat"), ("GET", "/"), ("GET", "/docs")])
def test_an_unknown_path_is_404_in_openais_format(method: str, path: str) -> None:
    error = error_of(Api().request(method, path), 404, "not_found")
    assert f"{method} {path}" in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/register_worker"), ("POST", "/tree"), ("DELETE", "/v1/models")])
def test_a_wrong_method_is_405_and_lists_the_right_ones(method: str, path: str) -> None:
    response = Api().request(method, path)
    assert path in error_of(response, 405, "method_not_allowed")["message"]
    assert response.headers["allow"] in ("POST", "GET")

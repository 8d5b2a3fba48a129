"""Aliases and renamed models, from a client at the root to an engine two levels below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from hierarchy.config.model_names import parse_targets
from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.security.keys import create_key
from tests.cluster import CALM, Cluster, Running, chat, wait_for_model
from tests.support import eventually

LOCAL: dict[str, Any] = {"listen": (("127.0.0.1", 0),), "advertise": "http://127.0.0.1:0", "settings": CALM}
ALIASES = {"gpt": parse_targets(["big", "small"]), "mostly": parse_targets([{"model": "small", "weight": 100}, "big"])}


def site(cluster: Cluster, root: Running, name: str, models: dict[str, str], engine: Running) -> Running:
    served = EngineConfig(name=f"{name}-1", kind="simulated", url=engine.url, models=models)
    return cluster.serve(NodeConfig(name=name, parents=(root.url,), engines=(served,), **LOCAL))


def test_a_tree_lists_the_served_names_and_the_aliases(cluster: Cluster) -> None:
    root = cluster.serve(NodeConfig(name="root", aliases=ALIASES, **LOCAL))
    site(cluster, root, "a", {"big": "org/big"}, cluster.engine(models=("org/big", "org/other")))
    wait_for_model(root.url, "big")
    wait_for_model(root.url, "gpt")


def test_a_renamed_model_is_requested_by_the_engines_name(cluster: Cluster) -> None:
    root = cluster.node("root", settings=CALM)
    site(cluster, root, "a", {"big": "org/big"}, cluster.engine(models=("org/big",)))
    wait_for_model(root.url, "big")
    for stream in (False, True):
        response = chat(root.url, "big", stream=stream)
        assert (response.status_code, response.headers["x-hierarchy-path"]) == (200, "a/a-1")
        assert "org/big" in response.text


def test_an_alias_uses_its_first_model_and_falls_back(cluster: Cluster) -> None:
    root = cluster.serve(NodeConfig(name="root", aliases=ALIASES, **LOCAL))
    first = site(cluster, root, "a", {"big": "org/big"}, cluster.engine(models=("org/big",)))
    site(cluster, root, "b", {"small": "small"}, cluster.engine(models=("small",)))
    wait_for_model(root.url, "big")
    wait_for_model(root.url, "small")
    assert chat(root.url, "gpt").headers["x-hierarchy-path"] == "a/a-1"
    response = chat(root.url, "mostly")
    assert (response.status_code, response.headers["x-hierarchy-path"]) == (200, "b/b-1")
    assert '"small"' in response.text
    cluster.stop(first)
    response = chat(root.url, "gpt")
    assert (response.status_code, response.headers["x-hierarchy-path"]) == (200, "b/b-1")


def test_a_key_for_an_alias_allows_all_its_models_and_a_key_for_a_model_allows_only_that(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    for_alias, for_big = create_key(file, "alias", ["gpt"]), create_key(file, "big", ["big"])
    keyed = Settings.model_validate(CALM.model_dump(exclude_unset=True) | {"security": {"api_keys": f"file:{file}"}})
    root = cluster.serve(NodeConfig(name="root", aliases=ALIASES, **{**LOCAL, "settings": keyed}))
    first = site(cluster, root, "a", {"big": "org/big"}, cluster.engine(models=("org/big",)))
    site(cluster, root, "b", {"small": "small"}, cluster.engine(models=("small",)))
    eventually(lambda: set(root.node.registry.model_names()) == {"big", "small"}, "both models")

    def status(key: str, model: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{root.url}/v1/chat/completions", json=body, headers=headers).status_code

    requests = [(key, model) for key in (for_alias, for_big) for model in ("gpt", "big", "mostly")]
    assert [status(*request) for request in requests] == [200, 403, 403, 200, 200, 403]
    cluster.stop(first)  # gpt now means small
    assert [status(for_alias, "gpt"), status(for_big, "gpt")] == [200, 403]

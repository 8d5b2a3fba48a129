"""Which paths clients may call at real nodes: with keys inference, without keys all but what changes an engine."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.errors import UsageError
from hierarchy.security.keys import create_key, read_keys
from tests.cluster import QUICK, Cluster, Running
from tests.security.keyed import ME, Keys, bearer
from tests.support import DEADLINE_S, eventually, running_app
from tests.whole.test_model_bodies import Engine

LORA = "/v1/load_lora_adapter"
BODY = {"model": "m", "lora_name": "m", "lora_path": "/tmp/x"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def serve(cluster: Cluster, config: NodeConfig, engine_url: str) -> Running:
    engines = (EngineConfig(name="gpu", kind="openai", url=engine_url, api_key="env:ENGINE_KEY"),)
    node = cluster.serve(config.model_copy(update={"engines": engines}))
    eventually(lambda: "m" in node.node.registry.model_names(), "the engine to be probed")
    return node


def post(node: Running, path: str, key: str = "") -> tuple[int, str]:
    response = httpx.post(f"{node.url}{path}", json=BODY, headers=bearer(key) if key else {}, timeout=DEADLINE_S)
    return response.status_code, response.json().get("error", {}).get("code", "")


def test_a_key_is_for_inference_and_for_what_its_list_has(
    cluster: Cluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "secret")
    file, engine = keys.folder / "api.yaml", Engine(["m"])
    loader = create_key(file, "loader", None, paths=["inference", f"POST {LORA}"])
    narrow = create_key(file, "narrow", None, paths=["POST /v1/embeddings"])
    with running_app(engine) as url:
        node = serve(cluster, keys.config(), url)
        for _ in range(2):  # the head is parsed, then known
            for path in (LORA, LORA + "/", LORA + "?a=b", "/v1/batches", "/v1/models/n:generateContent"):
                assert post(node, path, keys.client) == (403, "path_not_allowed"), path
            assert engine.got == []
            assert post(node, "/v1/chat/completions", keys.client) == (200, "")
            assert post(node, LORA, loader) == (200, "")
            assert post(node, "/v1/embeddings", narrow) == (200, "")
            assert post(node, "/v1/chat/completions", narrow) == (403, "path_not_allowed")
            engine.got.clear()
        assert httpx.get(f"{node.url}/v1/models", headers=bearer(keys.client)).status_code == 200
        assert httpx.get(f"{node.url}/v1/models", headers=bearer(narrow)).status_code == 403
        assert httpx.post(f"{node.url}/no/such/path", headers=bearer(keys.client)).status_code == 404
        frame = httpx.post(f"{node.url}/worker_generate", json=BODY, headers=bearer(narrow))
        assert (frame.status_code, frame.json()["error_code"]) == (200, 40103)


def test_the_node_can_allow_more_to_all_keys(cluster: Cluster, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "secret")
    with running_app(Engine(["m"])) as url:
        node = serve(cluster, keys.config(paths=["inference", "POST /v1/batches*"]), url)
        assert post(node, "/v1/batches/x", keys.client) == (200, "")
        assert post(node, "/v1/chat/completions", keys.client) == (200, "")
        assert post(node, LORA, keys.client) == (403, "path_not_allowed")


@pytest.mark.parametrize("allowed", [False, True])
def test_a_node_without_keys_relays_all_but_what_changes_an_engine(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "secret")
    engine = Engine(["m"])
    security = QUICK.security.model_copy(update={"paths": ["* /*"]}) if allowed else QUICK.security
    settings = QUICK.model_copy(update={"security": security})
    with running_app(engine) as url:
        node = serve(cluster, NodeConfig(name="a", listen=(("127.0.0.1", 0),), advertise=ME, settings=settings), url)
        assert post(node, "/v1/batches") == (200, "")
        assert post(node, "/v1/chat/completions") == (200, "")
        assert post(node, LORA) == ((200, "") if allowed else (403, "path_not_allowed"))
        assert len(engine.got) == 2 + allowed


def test_a_file_of_keys_with_a_wrong_path_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    create_key(file, "alice", None, paths=["POST /v1/x"])
    assert read_keys(file)[0].paths == ["POST /v1/x"]
    file.write_text(file.read_text().replace("POST /v1/x", "v1/x"))
    with pytest.raises(UsageError, match="`paths` of \"alice\": 'v1/x' is not a method and a path"):
        read_keys(file)

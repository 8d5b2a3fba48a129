"""Nodes that join with a token, use a credential and are revoked, and clients with keys: real nodes on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig
from hierarchy.node import Node
from hierarchy.security.keys import create_key, revoke_keys
from tests.cluster import Cluster, Running
from tests.relay.raw import Client
from tests.security.keyed import Keys, bearer
from tests.support import DEADLINE_S, eventually, running_app


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def models(url: str, key: str) -> list[str]:
    rows = httpx.get(f"{url}/v1/models", headers=bearer(key)).raise_for_status().json()["data"]
    return [row["id"] for row in rows]


def complete(url: str, key: str, model: str = "m", **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "x", "max_tokens": 4, **fields}
    return httpx.post(f"{url}/v1/completions", json=body, headers=bearer(key) if key else {}, timeout=DEADLINE_S)


def joined(cluster: Cluster, keys: Keys, **engine: Any) -> tuple[Running, Running]:
    """A root with keys, and a site that joined it with a token."""
    engine_node = cluster.engine(models=("m",), **engine)
    root = cluster.node("root", settings=keys.settings())
    settings = keys.settings(join_token=keys.token_file("site-a"))
    site = cluster.node("site-a", parents=(root.url,), engines=(engine_node.url,), settings=settings)
    eventually(lambda: models(root.url, keys.client) == ["m"], "the site to join")
    return root, site


def test_a_site_joins_with_a_token_and_later_uses_its_credential(cluster: Cluster, keys: Keys) -> None:
    root, site = joined(cluster, keys)
    credential = keys.folder / "state" / "site-a" / "credential"
    assert credential.stat().st_mode & 0o777 == 0o600
    cluster.stop(site)
    eventually(lambda: models(root.url, keys.client) == [], "the site to deregister, which needs its secret")
    engine = cluster.engine(models=("m",))
    cluster.node("site-a", parents=(root.url,), engines=(engine.url,), settings=keys.settings())
    eventually(lambda: models(root.url, keys.client) == ["m"], "the site to register without a token")


def test_a_site_sends_many_reports_with_cached_heads(cluster: Cluster, keys: Keys) -> None:
    root, _ = joined(cluster, keys)
    child = root.node.registry.children["site-a"]
    registered, first = child.instance, child.seq
    eventually(lambda: child.seq >= first + 5, "five reports")
    assert root.node.registry.children["site-a"] is child
    assert child.instance == registered
    assert len(root.node.clients.heads) >= 1, "the head of a heartbeat is not parsed again"


@pytest.mark.parametrize("cached", [False, True], ids=["parsed", "cached"])
def test_a_report_without_a_valid_secret_is_not_buffered(cluster: Cluster, keys: Keys, cached: bool) -> None:
    root, _ = joined(cluster, keys)
    head = b"POST /receive_heart_beat HTTP/1.1\r\nhost: x\r\nx-hierarchy-auth: %b\r\ncontent-length: %d\r\n\r\n"
    small, large = b'{"worker_name": "x", "queue_length": 0}', b" " * 1_000_000
    with Client(root.port) as client:
        if cached:
            client.send(head % (b"wrong", len(small)) + small)
            assert client.read_response().body == b'{"exist": false}'
        client.send(head % (b"wrong", len(large)))
        client.send(large[:200_000])  # and then nothing
        assert client.read_response().status == 413
    secret = root.node.registry.children["site-a"].secret
    with Client(root.port) as client:
        client.send(head % (secret, len(large)) + large)
        assert client.read_response().status == 400, "a report of a child may have the usual size"


def test_a_revoked_site_is_disconnected_within_five_seconds_and_its_streams_end(cluster: Cluster, keys: Keys) -> None:
    root, site = joined(cluster, keys, decode_tokens_per_s=5.0)
    body = b'{"model": "m", "prompt": "x", "max_tokens": 1000, "stream": true}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
    with Client(root.port) as client:
        client.send(head % (keys.client.encode(), len(body)) + body)
        eventually(lambda: root.node.registry.children["site-a"].in_flight == 1, "the stream to start")
        client.sock.settimeout(DEADLINE_S)
        assert client.sock.recv(16).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        admin = httpx.post(f"{root.url}/admin/revoke", json={"node": "site-a"}, headers=bearer(keys.admin))
        assert admin.json() == {"node": "site-a", "was_here": True}
        rest = client.rest()
        assert time.monotonic() - start < 5.0
    assert b"event: error" in rest
    assert b"revoked" in rest
    assert b"[DONE]" not in rest
    assert root.node.registry.children == {}
    eventually(lambda: not site.node.uplinks[0].registered, "the site to notice")
    assert complete(root.url, keys.client).status_code == 503  # for ten minutes


def test_a_revoked_site_can_join_again_with_a_new_token(cluster: Cluster, keys: Keys) -> None:
    root, site = joined(cluster, keys)
    httpx.post(f"{root.url}/admin/revoke", json={"node": "site-a"}, headers=bearer(keys.admin)).raise_for_status()
    cluster.stop(site)
    file = keys.folder / "state" / "site-a" / "credential"
    old = file.read_text()
    engine = cluster.engine(models=("m",))
    settings = keys.settings(join_token=keys.token_file("site-a"))
    new_site = cluster.node("site-a", parents=(root.url,), engines=(engine.url,), settings=settings)
    eventually(lambda: models(root.url, keys.client) == ["m"], "the site to use its token")
    # The root lists the model before its response reaches the site, which saves the credential then.
    eventually(lambda: new_site.node.uplinks[0].registered, "the response to the registration")
    eventually(lambda: file.read_text() != old, "the new credential to be saved")


def test_requests_and_probes_dial_the_address_that_was_checked(cluster: Cluster) -> None:
    """Also on a node without keys: a worker may register any name, which may resolve to any address."""
    engine = cluster.engine(models=("m",))
    root = cluster.node("root")
    addresses = ["169.254.169.254"]

    async def resolve(host: str, port: int) -> list[str]:
        assert host == "worker.example"
        return addresses

    root.node.access.dial_guard._resolve = resolve
    url = f"http://worker.example:{engine.port}"
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
    worker = {"worker_name": url, "check_heart_beat": True, "worker_status": status}
    assert httpx.post(f"{root.url}/register_worker", json=worker).status_code == 200
    frame = httpx.post(f"{root.url}/worker_generate_stream", json={"model": "m", "prompt": "x"}).content
    assert b"its address is never dialled" in frame
    assert b"169.254" not in frame
    addresses[:] = ["127.0.0.1"]

    def is_served() -> bool:
        response = httpx.post(
            f"{root.url}/worker_generate_stream", json={"model": "m", "prompt": "x", "max_new_tokens": 2}
        )
        return b'"error_code": 0' in response.content

    eventually(is_served, "the same worker at an allowed address, after its ejection")


def test_a_revocation_by_a_replica_with_the_same_state_has_effect(cluster: Cluster, keys: Keys) -> None:
    root, _ = joined(cluster, keys)
    replica = keys.config()  # another process of the root, used only to revoke

    policy = Node(replica).access.registration_policy
    policy.revoke("site-a")
    asyncio.run(policy.save_revocation("site-a"))
    eventually(lambda: "site-a" not in root.node.registry.children, "the root to read it", 5.0)


# clients


@contextlib.contextmanager
def engine_with_key(seen: list[dict[bytes, bytes]]) -> Iterator[str]:
    """An engine of OpenAI's API that requires its own key and records the header fields that it gets."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = dict(scope["headers"])
        valid = fields.get(b"authorization") == b"Bearer engine-key"
        if scope["method"] == "POST":
            seen.append(fields)
        while (await receive()).get("more_body"):
            pass
        body = b'{"object": "list", "data": [{"id": "m"}, {"id": "n"}]}' if valid else b"{}"
        kind = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200 if valid else 401, "headers": kind})
        await send({"type": "http.response.body", "body": body})

    with running_app(app, lifespan="off") as url:
        yield url


@pytest.fixture
def deep(
    cluster: Cluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Running, Keys, list[dict[bytes, bytes]]]]:
    """Three levels with keys above an engine with its own key; and the header fields that the engine got."""

    monkeypatch.setenv("ENGINE_KEY", "engine-key")
    seen: list[dict[bytes, bytes]] = []
    with engine_with_key(seen) as engine:
        root = cluster.node("root", settings=keys.settings())
        site = cluster.node("site", parents=(root.url,), settings=keys.settings(join_token=keys.token_file("site")))
        settings = keys.settings(join_token=keys.token_file("rack", parent="site"))
        config = keys.config("rack").model_copy(
            update={
                "parents": (site.url,),
                "settings": settings,
                "engines": (EngineConfig(name="gpu", kind="openai", url=engine, api_key="env:ENGINE_KEY"),),
            }
        )
        cluster.serve(config)
        eventually(lambda: models(root.url, keys.client) == ["m", "n"], "three levels")
        yield root, keys, seen


def test_a_clients_key_ends_at_the_entry_node_and_the_engine_gets_its_own(
    deep: tuple[Running, Keys, list[dict[bytes, bytes]]],
) -> None:
    root, keys, seen = deep
    for _ in range(2):  # parsed, then cached
        headers = {**bearer(keys.client), "x-api-key": keys.client, "cookie": "kept=1"}
        response = httpx.post(f"{root.url}/v1/completions", json={"model": "m"}, headers=headers)
        assert response.status_code == 200
        assert response.headers["x-hierarchy-path"] == "site/rack/gpu"
        fields = seen.pop()
        assert fields[b"authorization"] == b"Bearer engine-key"
        assert b"x-api-key" not in fields
        assert fields[b"cookie"] == b"kept=1"
        assert not any(name.startswith(b"x-hierarchy") for name in fields)
        assert keys.client.encode() not in b"".join(fields.values())


def test_requests_need_a_key_that_allows_the_model(
    deep: tuple[Running, Keys, list[dict[bytes, bytes]]],
) -> None:
    root, keys, seen = deep
    bound = create_key(keys.folder / "api.yaml", "bob", ["n"])
    eventually(lambda: complete(root.url, bound, "n").status_code == 200, "the new key to be loaded")
    for _ in range(2):
        for key in ("", "hk-wrong", keys.admin):
            response = complete(root.url, key)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
        response = complete(root.url, bound, "m")
        assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")
    frame = httpx.post(f"{root.url}/worker_generate_stream", json={"model": "m"})
    assert frame.status_code == 200
    assert b'"error_code": 40102' in frame.content
    assert models(root.url, bound) == ["n"]
    assert len(seen) == 1
    with httpx.Client(headers=bearer(bound)) as client:  # one connection, whose head is cached
        assert client.post(f"{root.url}/v1/completions", json={"model": "n"}).status_code == 200
        revoke_keys(keys.folder / "api.yaml", name="bob")
        eventually(
            lambda: client.post(f"{root.url}/v1/completions", json={"model": "n"}).status_code == 401,
            "the key to be void",
            5.0,
        )
    assert complete(root.url, keys.client).status_code == 200


def test_a_node_does_not_accept_a_parents_fields_from_a_client(
    deep: tuple[Running, Keys, list[dict[bytes, bytes]]],
) -> None:
    root, _, seen = deep
    site = root.node.registry.children["site"]
    forged = {"x-hierarchy-auth": "0" * 32, "x-hierarchy-model": "m", "x-hierarchy-seq": "1"}
    assert httpx.post(f"{site.url}/v1/completions", json={"model": "m"}, headers=forged).status_code == 401
    assert httpx.post(f"{site.url}/v1/completions", json={"model": "m"}).status_code == 401
    assert seen == []


def test_no_secret_is_in_the_tree_the_metrics_or_the_log(
    deep: tuple[Running, Keys, list[dict[bytes, bytes]]], caplog: pytest.LogCaptureFixture
) -> None:
    root, keys, _ = deep
    complete(root.url, keys.client)
    complete(root.url, "hk-a-wrong-one")
    visible = "".join(httpx.get(f"{root.url}{path}", headers=bearer(keys.admin)).text for path in ("/tree", "/metrics"))
    child = root.node.registry.children["site"]
    credential = (keys.folder / "state" / "site" / "credential").read_text().strip()
    visible += caplog.text + repr(child) + repr(root.node) + repr(root.node.access)
    for secret in (
        keys.client,
        keys.admin,
        keys.tree,
        credential,
        child.secret.decode(),
        "engine-key",
        "hk-a-wrong-one",
    ):
        assert secret not in visible


def test_operators_have_a_separate_address(cluster: Cluster, keys: Keys) -> None:
    config = keys.config().model_copy(update={"admin": (("127.0.0.1", 0),)})
    root = cluster.serve(config)
    host, port = root.node.config.admin[0]
    for path in ("/tree", "/metrics"):
        public = httpx.get(f"{root.url}{path}", headers=bearer(keys.admin))
        assert (public.status_code, public.json()["error"]["code"]) == (404, "not_found")
        assert httpx.get(f"http://{host}:{port}{path}", headers=bearer(keys.admin)).status_code == 200
        assert httpx.get(f"http://{host}:{port}{path}").status_code == 401


def test_forwarding_fields_do_not_change_the_clients_address(cluster: Cluster, keys: Keys) -> None:
    root = cluster.node("root", settings=keys.settings(allow=["10.1.0.0/24"], tokenless_workers=True))
    forged = {"x-forwarded-for": "10.1.0.7", "forwarded": "for=10.1.0.7"}
    assert httpx.post(f"{root.url}/list_models", headers=forged).status_code == 401

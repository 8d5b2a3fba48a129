"""No engine reads a model from a request that the client's key, or the engine's `models`, does not name.

An engine that stores what it gets is behind a real node; what was forwarded is read by three readers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig
from hierarchy.security.keys import create_key
from tests.cluster import Cluster, Running
from tests.relay.raw import Client
from tests.security.keyed import Keys
from tests.support import eventually, running_app
from tests.whole.model_readers import FURTHER, NAME, ORDINARY, OTHER, READERS, Sent, further, requests

OWN = "the-engines-own-name"


class Engine:
    """An ASGI app that serves the models `m` and `n`, by these or its own names, and stores requests."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.got: list[Sent] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = b'{"choices":[]}'
        if scope["path"] == "/v1/models":
            answer = b'{"data":[%b]}' % b",".join(b'{"id":"%b"}' % name.encode() for name in self.names)
        elif scope["method"] == "POST":
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            self.got.append(Sent(body, query, scope["headers"]))
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": answer})


@contextlib.contextmanager
def served(cluster: Cluster, keys: Keys, engine: Engine, key: str, **fields: Any) -> Iterator[tuple[Running, str]]:
    with running_app(engine) as url:
        config = keys.config().model_copy(
            update={"engines": (EngineConfig(name="gpu", kind="openai", url=url, **fields),)}
        )
        node = cluster.serve(config)
        eventually(lambda: "m" in node.node.registry.model_names(), "the engine to be probed")
        yield node, key


def send(node: Running, key: str, sent: Sent) -> int:
    """The status that the client gets."""
    lines = b"".join(b"%b: %b\r\n" % one for one in [*sent.fields, (b"authorization", b"Bearer " + key.encode())])
    head = b"POST /v1/chat/completions%b HTTP/1.1\r\nhost: 127.0.0.1\r\n%bcontent-length: %d\r\n\r\n"
    with Client(node.port) as client:
        client.send(head % (sent.query, lines, len(sent.body)) + sent.body)
        return client.read_response().status


def models_that_ran(engine: Engine) -> dict[str, set[str]]:
    return {name: set().union(*(reader(one) for one in engine.got)) for name, reader in READERS.items()}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_no_reader_finds_a_model_that_the_key_does_not_name(cluster: Cluster, keys: Keys) -> None:
    corpus = list(requests())
    assert len(corpus) >= 299
    engine = Engine(["m", "n"])
    with served(cluster, keys, engine, create_key(keys.folder / "api.yaml", "bob", ["m"])) as (node, key):
        statuses = [send(node, key, one) for one in corpus]
    assert set(statuses) <= {200, 400, 403}
    foreign = [one for one in engine.got for reader in READERS.values() if (reader(one) | further(one)) - {NAME}]
    counts = f"{len(corpus)} bodies x {len(READERS)} readers: {len(foreign)}"
    print(f"\n{counts} models run that the key does not name")  # noqa: T201
    assert foreign == []


def test_each_reader_would_run_other_models_without_the_check() -> None:
    for name, least in {"go": 120, "python": 80, "rust": 80}.items():
        assert sum(OTHER in READERS[name](one) for one in requests()) >= least, name
    assert sum(OTHER in further(one) for one in requests()) >= 4 * len(FURTHER)


@pytest.mark.parametrize("renamed", ["engine", "alias"])
def test_no_reader_finds_another_name_than_the_engines_own(cluster: Cluster, keys: Keys, renamed: str) -> None:
    engine = Engine([OWN, "n"] if renamed == "engine" else ["m", OWN])
    fields: dict[str, Any] = {"models": {"m": OWN}} if renamed == "engine" else {}
    with served(cluster, keys, engine, keys.client, **fields) as (node, key):
        if renamed == "alias":
            asyncio.run_coroutine_threadsafe(_set_alias(node), cluster.loop).result(5)
        for one in requests():
            send(node, key, one)
        for one in ORDINARY:
            assert send(node, key, one) == 200
    named = b'"models"', b"fallback", b"draft", b"lora", b"adapter"  # only a bound key limits these
    for one in engine.got:
        assert all(reader(one) <= {OWN} for reader in READERS.values()), one
    assert len([one for one in engine.got if not any(name in one.body.lower() for name in named)]) >= len(ORDINARY) - 2


async def _set_alias(node: Running) -> None:
    from hierarchy.config.model_names import Target

    node.node.dispatch.set_aliases({"m": (Target(model=OWN),)})


def test_ordinary_bodies_are_forwarded_as_they_came(cluster: Cluster, keys: Keys) -> None:
    engine = Engine(["m", "n"])
    with served(cluster, keys, engine, create_key(keys.folder / "api.yaml", "bob", ["m"])) as (node, key):
        for one in ORDINARY:
            assert send(node, key, one) == 200, one
    assert [one.body for one in engine.got] == [one.body for one in ORDINARY]
    assert models_that_ran(engine)["python"] == {NAME}


def test_fields_that_name_further_models_are_bound_to_the_key(cluster: Cluster, keys: Keys) -> None:
    engine = Engine(["m", "n"])
    with served(cluster, keys, engine, create_key(keys.folder / "api.yaml", "bob", ["m"])) as (node, key):
        refused = [b'"fallbacks":["n"]', b'"lora_path":"n"', b'"lora":[{"id":1}]', b'"Models":["m","n"]']
        for field in refused:
            assert send(node, key, Sent(b'{"model":"m",%b}' % field)) == 403
        assert engine.got == []
        for field in (b'"fallbacks":["m"]', b'"lora_path":null', b'"models":[]'):
            assert send(node, key, Sent(b'{"model":"m",%b}' % field)) == 200
        for field in refused:
            assert send(node, keys.client, Sent(b'{"model":"m",%b}' % field)) == 200, (
                "a key for all models is not bound"
            )


def test_a_bound_key_reads_no_other_models_names_in_errors(cluster: Cluster, keys: Keys) -> None:
    with served(cluster, keys, Engine(["m", "secret"]), create_key(keys.folder / "api.yaml", "bob", ["m", "gone"])) as (
        node,
        key,
    ):
        answers = {}
        for one in (key, keys.client):
            for model in ("gone", "other"):
                body: dict[str, object] = {"model": model, "messages": []}
                found = httpx.post(
                    f"{node.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {one}"}
                )
                answers[one == key, model] = found.status_code, found.json()["error"]["message"]
    assert answers[True, "gone"] == (404, "no child serves model 'gone'; models here: m")
    assert answers[True, "other"][0] == 403
    assert "secret" not in answers[True, "other"][1]
    assert answers[False, "other"] == (404, "no child serves model 'other'; models here: m, secret")

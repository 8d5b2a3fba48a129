"""Heads and bodies at their limits and beyond, and bodies that name no model."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from tests.relay.downstream.test_strict import CHUNKED, refused
from tests.relay.raw import BODY, OK_BODY, chunk, http_response, post, post_head
from tests.relay.support import HOLD, Tree, World, tree


def test_a_head_at_the_limit_passes_all_levels_and_one_beyond_none(chain: Tree) -> None:
    settings = chain.root.settings
    own = 2  # host and content-length
    fields = [b"x-%d: y" % number for number in range(settings.max_head_fields - own)]
    assert chain.request(post(BODY, *fields)).status == 200
    assert len(chain.engine.received[0].fields) == settings.max_head_fields
    refused(chain.request(post(BODY, *fields, b"x-one-more: y")), 431, "head_too_large")

    size = settings.max_head_bytes - 100
    assert chain.request(post(BODY, b"x: " + b"y" * size)).status == 200
    refused(chain.request(post(BODY, b"x: " + b"y" * (size + 100))), 431, "head_too_large")
    assert len(chain.engine.received) == 2


@pytest.mark.parametrize(
    "head",
    [
        post_head(*[b"x-%d: y" % number for number in range(10_000)]),
        post_head(b"x: " + b"y" * 1024 * 1024),
        post_head(b"x" * 1024 * 1024 + b": y"),
        post_head(path=b"/v1/" + b"x" * 1024 * 1024),
        post_head(path=b"/health?" + b"x" * 40_000),
        post_head(*[b"x-%d: y" % number for number in range(101)], path=b"/health"),
    ],
    ids=["10,000 fields", "1 MB value", "1 MB name", "1 MB target", "long target of the app", "101 fields for the app"],
)
def test_large_heads_get_431(chain: Tree, head: bytes) -> None:
    with chain.client() as client:
        with contextlib.suppress(ConnectionError):  # refused while it was still being sent
            client.send(head)
        refused(client.read_response(), 431, "head_too_large")
    assert chain.engine.received == []


@pytest.mark.parametrize(
    "flood",
    [
        b"5;" + b"a" * 200_000,
        chunk(BODY) + b"0\r\nx: " + b"y" * 200_000,
        chunk(BODY) + b"0\r\n" + b"x: y\r\n" * 50_000,
    ],
    ids=["extension", "trailer", "trailers"],
)
def test_floods_after_the_head_get_431_too(chain: Tree, flood: bytes) -> None:
    with chain.client() as client:
        with contextlib.suppress(ConnectionError):
            client.send(CHUNKED, flood)
        refused(client.read_response(), 431, "head_too_large")
    assert chain.engine.received == []


def test_the_limits_are_settings(world: World) -> None:
    with tree(world, max_head_bytes=1024, max_head_fields=8, max_body_bytes=2000) as small:
        assert small.request(post(BODY, *[b"x: y"] * 6)).status == 200
        refused(small.request(post(BODY, *[b"x: y"] * 7)), 431, "head_too_large")
        refused(small.request(post(BODY, b"x: " + b"y" * 1024)), 431, "head_too_large")
        body = b'{"model":"m"}'.ljust(2000)
        assert small.request(post(body)).status == 200
        refused(small.request(post(body + b" ")), 413, "body_too_large")
        refused(small.request(CHUNKED + chunk(body) + chunk(b" ")), 413, "body_too_large")
        refused(small.request(CHUNKED + b"".join(chunk(b" " * 100) for _ in range(30))), 413, "body_too_large")
        assert len(small.engine.received) == 2


@pytest.mark.parametrize("length", [b"content-length: 40000000", b"transfer-encoding: chunked"])
def test_a_body_too_large_gets_413_while_it_streams(chain: Tree, length: bytes) -> None:
    with chain.client() as client:
        client.send(post_head(length))
        block = chunk(b" " * 65536)
        with contextlib.suppress(ConnectionError):
            for _ in range(600):
                client.send(block)
        refused(client.read_response(), 413, "body_too_large")
    assert chain.engine.received == []


def test_a_large_body_passes_three_levels_unchanged(chain: Tree) -> None:
    body = b'{"x":"' + bytes(range(97, 123)) * 100_000 + b'","model":"m"}'
    assert chain.request(post(body)).status == 200
    assert (
        chain.request(
            CHUNKED + b"".join(chunk(body[at : at + 9999]) for at in range(0, len(body), 9999)) + b"0\r\n\r\n"
        ).status
        == 200
    )
    assert [received.body == body for received in chain.engine.received] == [True, True]


BODIES = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff\xfe": "not JSON",
    b'{"model":"m"}x': "not JSON",
    b'{"model":"m","x":NaN}': "not JSON",
    b'{"model":"\\ud800"}': "not text",
    b"[" * 100_000: "JSON",
    b"[]": "JSON object",
    b'"m"': "JSON object",
    b"{}": "no 'model'",
    b'{"model":null}': "must be a string",
    b'{"model":["m"]}': "must be a string",
}


@pytest.mark.parametrize(("body", "message"), BODIES.items(), ids=[repr(body[:20]) for body in BODIES])
def test_bodies_without_a_model_get_400_and_the_connection_stays_open(chain: Tree, body: bytes, message: str) -> None:
    with chain.client() as client:
        client.send(post(body))
        response = client.read_response()
        assert (response.status, response.get(b"connection")) == (400, [])
        assert message in response.error["message"]
        client.send(post())
        assert client.read_response().status == 200
    assert len(chain.engine.received) == 1


@pytest.mark.parametrize("model", ["x", "", "\0", "é", "m" * 300, "a\r\nx-evil: 1"])
def test_models_that_no_child_serves_get_404(chain: Tree, model: str) -> None:
    response = chain.request(post(json.dumps({"model": model}).encode()))
    assert (response.status, response.error["param"]) == (404, "model")
    assert chain.engine.received == []


def test_fastchat_paths_answer_200_with_a_frame(chain: Tree) -> None:
    response = chain.request(post(b'{"model":"x"}', path=b"/worker_generate_stream"))
    assert (response.status, response.body[-1:]) == (200, b"\0")
    assert json.loads(response.body[:-1])["error_code"] == 50005


def test_an_incomplete_request_is_forgotten_with_its_client(chain: Tree) -> None:
    with chain.client() as client:
        client.send(post_head(b"content-length: 13") + BODY[:5])
        chain.world.eventually(lambda: chain.exchanges(), "the head to arrive")
    chain.world.eventually(lambda: not chain.exchanges(), "the connection to be forgotten")
    assert chain.engine.received == []


def test_a_client_that_closes_its_sending_side_has_left(chain: Tree) -> None:
    """As in nginx: half-closed is closed, since nothing else shows that the client waits no more."""
    chain.engine.plan([HOLD])
    with chain.client() as client:
        client.send(post())
        chain.world.eventually(lambda: chain.engine.received)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    chain.world.eventually(lambda: chain.engine.gone == 1)


def test_a_response_does_not_leak_hop_by_hop_fields(chain: Tree) -> None:
    chain.engine.plan(
        [http_response(OK_BODY, b"connection: keep-alive, x-one", b"x-one: 1", b"keep-alive: timeout=5, max=100",
                b"proxy-authenticate: basic", b"x-hierarchy-auth: leak", b"x-hierarchy-path: lie", b"upgrade: h2c",
                b"server: llama.cpp", b"set-cookie: a", b"set-cookie: b")]
    )  # fmt: skip
    response = chain.request(post())
    assert response.fields == [
        (b"server", b"llama.cpp"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"x-hierarchy-path", b"n1/n2/e0"),
        (b"content-length", b"11"),
    ]

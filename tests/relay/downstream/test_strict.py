"""Requests as bytes, through three levels: what reaches the engine, and what the client gets. Nothing is smuggled."""

from __future__ import annotations

import json

import pytest

from tests.relay.raw import BODY, OK_BODY, Client, ReceivedResponse, chunk, post, post_head
from tests.relay.support import Tree, World, tree

CHUNKED = post_head(b"transfer-encoding: chunked")
OTHER = b"POST /v1/smuggled HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\n\r\n" + BODY


def refused(response: ReceivedResponse, status: int, code: str) -> None:
    """Is it OpenAI's error object, and the last response of the connection?"""
    assert response.status == status, response
    assert response.complete
    assert response.get(b"connection") == [b"close"]
    assert response.error["code"] == code


MALFORMED = {
    "length and chunked": post(BODY, b"transfer-encoding: chunked"),
    "chunked and length": post_head(b"transfer-encoding: chunked", b"content-length: 5") + b"0\r\n\r\n",
    "two lengths": post(BODY, b"content-length: 12"),
    "the same length twice": post(BODY, b"content-length: 13"),
    "a list of lengths": post_head(b"content-length: 13, 13") + BODY,
    "length +13": post_head(b"content-length: +13") + BODY,
    "length -13": post_head(b"content-length: -13") + BODY,
    "length 0xd": post_head(b"content-length: 0xd") + BODY,
    "length 1 3": post_head(b"content-length: 1 3") + BODY,
    "length 1_3": post_head(b"content-length: 1_3") + BODY,
    "length 13.0": post_head(b"content-length: 13.0") + BODY,
    "no length": post_head(b"content-length:") + BODY,
    "length beyond 64 bits": post_head(b"content-length: 99999999999999999999999") + BODY,
    "chunked twice": post_head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n",
    "two codings, the same": post_head(b"transfer-encoding: chunked", b"transfer-encoding: chunked") + b"0\r\n\r\n",
    "two codings": post_head(b"transfer-encoding: identity", b"transfer-encoding: chunked") + b"0\r\n\r\n",
    "gzip, chunked": post_head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked, gzip": post_head(b"transfer-encoding: chunked, gzip") + b"0\r\n\r\n",
    "xchunked": post_head(b"transfer-encoding: xchunked") + b"0\r\n\r\n",
    "chunked with a parameter": post_head(b"transfer-encoding: chunked;q=1") + b"0\r\n\r\n",
    "identity": post_head(b"transfer-encoding: identity"),
    "vertical tab before chunked": post_head(b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n",
    "chunked in HTTP/1.0": post_head(b"transfer-encoding: chunked", version=b"1.0") + chunk(BODY) + b"0\r\n\r\n",
    "space before the colon": post_head(b"content-length : 13") + BODY,
    "tab before the colon": post_head(b"content-length\t: 13") + BODY,
    "a name in parts": post_head(b"content length: 13") + BODY,
    "no colon": post_head(b"nonsense") + BODY,
    "no name": post_head(b": x") + BODY,
    "obs-fold": post(BODY, b"x: a\r\n b"),
    "obs-fold with tab": post(BODY, b"x: a\r\n\tb"),
    "obs-fold of a length": post_head(b"content-length:\r\n 13") + BODY,
    "fold behind the request line": b"POST /v1/x HTTP/1.1\r\n x: a\r\nhost: a\r\n\r\n",
    "LF behind the request line": b"POST /v1/x HTTP/1.1\nhost: a\r\n\r\n",
    "LF behind a field": post(BODY, b"x: a\ny: b"),
    "LF behind the head": b"POST /v1/x HTTP/1.1\r\nhost: a\r\n\n",
    "LF only": b"POST /v1/x HTTP/1.1\nhost: a\ncontent-length: 13\n\n" + BODY,
    "CR in a value": post(BODY, b"x: a\rb"),
    "CR behind the head": b"POST /v1/x HTTP/1.1\r\nhost: a\r\n\rx",
    "NUL in a value": post(BODY, b"x: a\0b"),
    "NUL in a name": post(BODY, b"x\0: a"),
    "control character in a value": post(BODY, b"x: a\x01b"),
    "DEL in a value": post(BODY, b"x: a\x7fb"),
    "bytes above ASCII in a name": post(BODY, b"x\xff: a"),
    "no host": b"POST /v1/x HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + BODY,
    "two hosts": post(BODY, b"host: other"),
    "a host that is not a host": b"POST /v1/x HTTP/1.1\r\nhost: a b\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\n",
    "chunk size 0x": CHUNKED + b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size -": CHUNKED + b"-1\r\n",
    "chunk size with a blank": CHUNKED + b"d \r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\n",
    "LF behind the chunk size": CHUNKED + b"d\n" + BODY + b"\r\n0\r\n\r\n",
    "LF behind the chunk": CHUNKED + b"d\r\n" + BODY + b"\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "LF in an extension": CHUNKED + b"d;a\n" + BODY + b"\r\n0\r\n\r\n",
    "LF in a quoted extension": CHUNKED + b'd;a="\n"\r\n' + BODY + b"\r\n0\r\n\r\n",
    "CR in an extension": CHUNKED + b"d;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "NUL in an extension": CHUNKED + b"d;a\0\r\n" + BODY + b"\r\n0\r\n\r\n",
    "empty extension": CHUNKED + b"d;\r\n" + BODY + b"\r\n0\r\n\r\n",
    "LF in the trailers": CHUNKED + chunk(BODY) + b"0\r\nx: y\n\r\n",
    "LF behind the trailers": CHUNKED + chunk(BODY) + b"0\r\n\n",
    "a length as trailer": CHUNKED + chunk(BODY) + b"0\r\ncontent-length: 9\r\n\r\n",
    "a coding as trailer": CHUNKED + chunk(BODY) + b"0\r\ntransfer-encoding: gzip\r\n\r\n",
    "HTTP/0.9": b"POST /v1/x HTTP/0.9\r\n\r\n",
    "HTTP/1.2": post(version=b"1.2"),
    "HTTP/2.0": post(version=b"2.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blank behind the version": b"POST /v1/x HTTP/1.1 \r\nhost: a\r\n\r\n",
    "blank in the target": b"POST /v1/x y HTTP/1.1\r\nhost: a\r\n\r\n",
    "tab behind the method": b"POST\t/v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "bytes above ASCII in the target": post(path=b"/v1/\xff"),
    "control character in the target": post(path=b"/v1/x?\x01"),
    "fragment": post(path=b"/v1/x#y"),
    "relative target": post(path=b"v1/x"),
    "no such method": b"BREW /v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "lower-case method": b"post /v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n" + OTHER,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nonsense": b"nonsense\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("how", ["whole", "bytewise"])
def test_a_malformed_request_gets_400_and_is_not_forwarded(chain: Tree, data: bytes, how: str) -> None:
    with chain.client() as client:
        if how == "whole":
            client.send(data + OTHER)
        else:
            for byte in data:
                try:
                    client.send(bytes([byte]))
                except ConnectionError:
                    break  # already refused
        refused(client.read_response(), 400, "bad_request")
        assert client.is_closed()
    assert chain.engine.received == []


@pytest.mark.parametrize(
    "data",
    [
        b"POST /register_worker HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX",
        b"POST /register_worker HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /register_worker HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: a\r\n\r\n",
        b"GET /health#x HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http:///health HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=repr,
)
def test_paths_of_the_app_are_equally_strict(single: Tree, data: bytes) -> None:
    with single.client() as client:
        client.send(data)
        refused(client.read_response(), 400, "bad_request")
        assert client.is_closed()


def sent(chain: Tree) -> bytes:
    """The one request that reached the engine, which is well-formed: checked here for every test."""
    (received,) = chain.engine.received
    assert received.get(b"host") == [chain.engine.url.removeprefix("http://").encode()]
    assert received.get(b"content-length") == [b"%d" % len(received.body)]
    assert received.get(b"transfer-encoding") == []
    assert not [name for name, _ in received.fields if name.startswith(b"x-hierarchy-")]
    return received.raw


PLAIN = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\ncontent-length: 13\r\n\r\n" + BODY

FINE = {
    "a length": post(),
    "leading zeros": post_head(b"content-length: 0013") + BODY,
    "blanks around the length": post_head(b"content-length: \t 13 \t") + BODY,
    "chunked": CHUNKED + chunk(BODY[:5]) + chunk(BODY[5:]) + b"0\r\n\r\n",
    "CHUNKED": post_head(b"Transfer-Encoding: CHUNKED") + chunk(BODY) + b"0\r\n\r\n",
    "chunk extensions": CHUNKED + b'd;a=b;c="d;e"\r\n' + BODY + b"\r\n0;x\r\n\r\n",
    "trailers": CHUNKED + chunk(BODY) + b"0\r\nx-hierarchy-model: other\r\nauthorization: x\r\nhost: y\r\n\r\n",
    "absolute-form": post(path=b"http://elsewhere:80/v1/chat/completions"),
    "empty lines before": b"\r\n\r\n" + post(),
    "HTTP/1.0": b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: 13\r\n\r\n" + BODY,
    "HTTP/1.0 with keep-alive": post(BODY, b"connection: keep-alive", version=b"1.0"),
    "hop-by-hop fields": post(
        BODY, b"connection: keep-alive, x-one", b"x-one: 1", b"te: trailers", b"keep-alive: 5", b"proxy-connection: x",
        b"trailer: x", b"proxy-authorization: basic x",
    ),
    "fields named for routing": post(BODY, b"connection: content-length, host, transfer-encoding"),
    "a client's own x-hierarchy fields": post(
        BODY, b"x-hierarchy-auth: " + b"0" * 32, b"x-hierarchy-seq: 1", b"x-hierarchy-model: other",
        b"X-Hierarchy-Hops: 99", b"x-hierarchy-path: a", b"x-hierarchy-what: x",
    ),
    "absurd x-hierarchy fields": post(
        BODY, b"x-hierarchy-auth: \xff", b"x-hierarchy-seq: " + b"9" * 5000, b"x-hierarchy-hops: " + b"9" * 5000,
    ),
    "upgrade to h2c": post(
        BODY, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"
    ),
    "upgrade to h2c, chunked": post_head(
        b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: x", b"transfer-encoding: chunked"
    ) + chunk(BODY) + b"0\r\n\r\n",
    "upgrade to websocket": post(BODY, b"connection: upgrade", b"upgrade: websocket"),
    "upgrade without connection": post(BODY, b"upgrade: h2c"),
}  # fmt: skip


@pytest.mark.parametrize("data", FINE.values(), ids=FINE.keys())
@pytest.mark.parametrize("how", ["whole", "bytewise"])
def test_what_reaches_the_engine(chain: Tree, data: bytes, how: str) -> None:
    with chain.client() as client:
        for part in [data] if how == "whole" else [bytes([byte]) for byte in data]:
            client.send(part)
        response = client.read_response()
    assert (response.status, response.body, response.complete) == (200, OK_BODY, True)
    assert response.get(b"x-hierarchy-path") == [b"n1/n2/e0"]
    assert sent(chain) == PLAIN % chain.engine.url.removeprefix("http://").encode()


def test_other_fields_are_forwarded_unchanged(chain: Tree) -> None:
    fields = [
        b"authorization: Bearer k",
        b"content-type: application/json",
        b"accept-encoding: gzip",
        b"x-raw: \xc3\xa9 \xff",
        b"x-same: 1",
        b"x-same: 2",
        b"cookie: a=b; c=d",
    ]
    assert chain.request(post(BODY, *fields, path=b"/v1/x?a=%2e%2e&b=/../c")).status == 200
    raw = sent(chain)
    assert raw.startswith(b"POST /v1/x?a=%2e%2e&b=/../c HTTP/1.1\r\n")
    assert b"\r\n".join(fields) in raw


def test_the_body_of_an_upgrade_is_a_body_and_the_bytes_after_it_a_request(chain: Tree) -> None:
    """Java's client offers h2c with its POST; a body that looks like a request must not become one."""
    inner = b'{"model":"m","x":"' + b"GET /health HTTP/1.1" + b'"}'
    upgrade = post(inner, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: x")
    with chain.client() as client:
        client.send(upgrade + upgrade + b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        assert [client.read_response().body for _ in range(2)] == [OK_BODY] * 2
        assert json.loads(client.read_response().body)["status"] == "ok"
    assert [received.body for received in chain.engine.received] == [inner] * 2


def test_thousands_of_upgrades_in_one_read(single: Tree) -> None:
    count = 3000
    with single.client() as client:
        client.send(b"POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" * count)
        assert {client.read_response().status for _ in range(count)} == {400}
        client.send(post())
        assert client.read_response().status == 200


def test_x_hierarchy_fields_are_believed_only_with_the_secret(chain: Tree) -> None:
    leaf = chain.nodes[-1]
    (uplink,) = leaf.uplinks
    seen = uplink.seen

    def request(*fields: bytes) -> ReceivedResponse:
        with Client(leaf.config.listen[0][1]) as client:
            client.send(post(b'{"model":"body"}', *fields))
            return client.read_response()

    model = b"x-hierarchy-model: m"
    auth = b"x-hierarchy-auth: " + uplink.secret
    assert request(model).status == 404
    assert request(model, b"x-hierarchy-auth: " + b"0" * 32).status == 404
    assert request(model, b"x-hierarchy-auth:").status == 404
    for odd in (b"-1", b"99999999999999999999", b"", b"x"):
        assert request(model, auth, b"x-hierarchy-seq: " + odd).status == 404
    assert uplink.seen == seen
    assert request(b"x-hierarchy-model: %6D", auth, b"x-hierarchy-seq: 7").status == 200
    assert uplink.seen == max(seen, 7)
    assert request(model, auth).status == 200
    response = request(model, auth, b"x-hierarchy-hops: 33")
    assert (response.status, response.error["code"]) == (508, "loop_detected")
    assert [received.body for received in chain.engine.received] == [b'{"model":"body"}'] * 2


def test_expect_100_continue(chain: Tree) -> None:
    head = post_head(b"content-length: 13", b"expect: 100-Continue")
    with chain.client() as client:
        client.send(head)
        assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(BODY)
        assert client.read_response().status == 200
        client.send(head + BODY)  # it did not wait
        assert client.read_response().status == 200
        assert client.interim == [100]
        client.send(post() + head)  # behind one that is still being answered
        assert client.read_response().status == 200
        assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(BODY)
        assert client.read_response().status == 200
    for received in chain.engine.received:
        assert received.get(b"expect") == []
    assert len(chain.engine.received) == 4


def test_expectations_of_http_10_and_others_are_ignored(chain: Tree) -> None:
    for head in (
        post_head(b"content-length: 13", b"expect: 100-continue", version=b"1.0"),
        post_head(b"content-length: 13", b"expect: a-miracle"),
    ):
        with chain.client() as client:
            client.send(head + BODY)
            assert client.read_response().status == 200
            assert client.interim == []


def test_a_body_too_large_to_be_sent_is_refused_instead_of_continued(world: World) -> None:
    with tree(world, max_body_bytes=2000) as small, small.client() as client:
        client.send(post_head(b"content-length: 2001", b"expect: 100-continue"))
        refused(client.read_response(), 413, "body_too_large")
        assert client.interim == []


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/models", b"/health", b"/nowhere"])
def test_head_has_no_body(chain: Tree, path: bytes) -> None:
    with chain.client() as client:
        client.send(b"HEAD %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
        response = client.read_response(method="HEAD")
        assert response.status in (200, 404, 405)
        client.send(post())
        assert client.read_response().body == OK_BODY


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/../health",
        b"/v1/x/../../health",
        b"//v1/x",
        b"/v1//x",
        b"/v1/%2e%2e/x",
        b"/v1/%2E/x",
        b"/v1/x%2fy",
        b"/v1/x%00",
        b"/v1/x;y=z",
        b"/v1/x\\..\\y",
        b"/%76%31/x",
        b"/v1",
        b"/",
        b"*",
        b"http://h",
        b"http://h?/v1/x",
    ],
)
def test_ambiguous_paths_are_not_forwarded(chain: Tree, target: bytes) -> None:
    response = chain.request(post(path=target))
    assert response.status in (404, 405), response
    assert response.error["code"] in ("not_found", "method_not_allowed")
    assert chain.engine.received == []


def test_an_http_10_response_ends_with_the_connection(chain: Tree) -> None:
    with chain.client() as client:
        client.send(post(BODY, b"connection: keep-alive", version=b"1.0"))
        response = client.read_response()
        assert (response.status, response.body, response.complete) == (200, OK_BODY, True)
        assert response.get(b"connection") == [b"close"]
        assert client.is_closed()
        assert len(chain.engine.received) == 1


def test_http_10_without_a_length_has_no_body(chain: Tree) -> None:
    with chain.client() as client:
        client.send(b"POST /v1/x HTTP/1.0\r\n\r\n" + BODY)
        refused(client.read_response(), 400, "bad_request")
        assert client.is_closed()

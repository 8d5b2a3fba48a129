"""The clients of each path get responses in their own format, through three levels and where one is cut."""

from __future__ import annotations

import json

import pytest

from tests.relay.raw import BODY, OK_BODY, SSE_HEAD, chunk, event, http_response, post
from tests.relay.support import CLOSE, Tree, World, tree

UNKNOWN = b'{"model":"unknown"}'
FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
OBJECTS = (
    b"/worker_generate",
    b"/worker_get_embeddings",
    b"/worker_get_conv_template",
    b"/model_details",
    b"/count_token",
)


def test_a_model_that_no_child_serves_in_each_dialect(chain: Tree) -> None:
    found = chain.request(post(UNKNOWN, path=b"/v1/messages"))
    assert (found.status, json.loads(found.body)["error"]["type"]) == (404, "not_found_error")
    found = chain.request(post(UNKNOWN, path=b"/tokenize"))
    assert (found.status, found.error["code"]) == (404, "model_not_found")
    for path in OBJECTS:  # any other status, and FastChat's API server would keep what came for good
        found = chain.request(post(UNKNOWN, path=path))
        assert (found.status, found.get(b"content-type")) == (200, [b"application/json"])
        assert json.loads(found.body)["error_code"] == 50005
        assert "conv" not in json.loads(found.body)


@pytest.mark.parametrize(
    "path", [b"/v1/messages", b"/v1/responses", b"/v1/embeddings", b"/v1/rerank", b"/tokenize", b"/detokenize"]
)
def test_paths_of_openais_family_pass(chain: Tree, path: bytes) -> None:
    assert chain.request(post(path=path)).body == OK_BODY
    assert chain.engine.received[-1].body == BODY


def test_a_cut_stream_of_messages_ends_with_anthropics_error(chain: Tree) -> None:
    found = chain.request_playing([SSE_HEAD + chunk(event("one")), CLOSE], post(path=b"/v1/messages"))
    *_, last = found.body.split(b"data: ")
    assert json.loads(last)["error"]["type"] == "api_error"
    assert found.complete


def test_paths_that_only_fastchat_workers_serve_are_forwarded_down_the_tree(world: World) -> None:
    with tree(world, levels=3, kind="fastchat") as running:
        for path in OBJECTS:
            assert running.request_playing([http_response(b'{"conv": {}}')], post(path=path)).body == b'{"conv": {}}'
            assert running.engine.received[-1].raw.startswith(b"POST %b HTTP/1.1" % path)


def test_a_form_goes_to_the_engine_of_its_model(chain: Tree) -> None:
    form = post(FORM, b"content-type: multipart/form-data; boundary=b", path=b"/v1/audio/transcriptions")
    assert chain.request(form).body == OK_BODY
    assert chain.engine.received[-1].body == FORM
    found = chain.request(
        post(FORM, b"content-type: multipart/form-data; boundary=c", path=b"/v1/audio/transcriptions")
    )
    assert (found.status, found.error["code"]) == (400, "bad_request")


def test_web_sockets_are_refused_on_the_lanes_paths(chain: Tree) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
    found = chain.request(b"GET /v1/realtime?model=m HTTP/1.1\r\nhost: a\r\n" + upgrade)
    assert (found.status, found.error["code"], found.get(b"connection")) == (501, "not_implemented", [b"close"])
    assert chain.request(b"GET /health HTTP/1.1\r\nhost: a\r\n" + upgrade).status == 200
    assert chain.engine.received == []

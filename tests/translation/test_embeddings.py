"""Embeddings, translated in both directions."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from hierarchy.translation import BadEngineResponse, to_fastchat, to_openai
from hierarchy.translation.worker_profile import NO_PROFILE
from tests.translation.support import translate

EMBED = "/worker_get_embeddings"


def test_embeddings_in_both_directions() -> None:
    to_engine = to_openai(EMBED, b'{"model":"m","input":["a","b"],"encoding_format":null}')
    assert json.loads(to_engine.body("own")) == {"model": "own", "input": ["a", "b"]}
    of_engine = {
        "data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}],
        "usage": {"prompt_tokens": 2},
    }
    of_worker = {"embedding": [[1.0], [2.0]], "token_num": 2}
    assert json.loads(translate(to_engine.translator("m"), [json.dumps(of_engine).encode()])) == of_worker
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":["a","b"]}')
    assert json.loads(translate(to_worker.translator(NO_PROFILE, "m"), [json.dumps(of_worker).encode()])) == {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": at, "embedding": [at + 1.0]} for at in (0, 1)],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


def test_embeddings_are_encoded_in_base64_by_the_node() -> None:
    """A worker would encode the numbers of its model, which may have 16 bits; OpenAI's have 32."""
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":"a","encoding_format":"base64"}')
    assert json.loads(to_worker.body(NO_PROFILE, "own", None))["encoding_format"] is None
    found = json.loads(translate(to_worker.translator(NO_PROFILE, "m"), [b'{"embedding":[[1.5,-2]],"token_num":1}']))
    assert struct.unpack("<2f", base64.b64decode(found["data"][0]["embedding"])) == (1.5, -2.0)
    for body in (b'{"embedding":[[1e300]]}', b'{"embedding":[["x"]]}', b'{"embedding":["AAAA"]}'):
        with pytest.raises(BadEngineResponse):
            translate(to_worker.translator(NO_PROFILE, "m"), [body])


def test_embeddings_that_are_malformed_or_missing() -> None:
    to_worker = to_fastchat("/v1/embeddings", b'{"model":"m","input":"a"}')
    found = to_worker.translator(NO_PROFILE, "m")
    assert json.loads(translate(found, [b'{"text":"oom","error_code":50002}']))["error"]["message"] == "oom"
    assert found.status == 503
    for malformed in (b"{}", b"[", b'{"embedding":[[1],[2]]}'):
        with pytest.raises(BadEngineResponse):
            translate(to_worker.translator(NO_PROFILE, "m"), [malformed])
    to_engine = to_openai(EMBED, b'{"model":"m","input":["a"]}')
    assert json.loads(translate(to_engine.translator("m"), [b'{"error":"no"}'], 400)) == {
        "text": "no",
        "error_code": 40302,
    }
    with pytest.raises(BadEngineResponse):
        translate(to_engine.translator("m"), [b'{"data":[]}'])
    with pytest.raises(BadEngineResponse):
        translate(to_engine.translator("m"), [b'{"data":[{"index":0}]}'])
    encoded = {"data": [{"index": 0, "embedding": "AADAPw=="}]}
    assert json.loads(translate(to_engine.translator("m"), [json.dumps(encoded).encode()]))["embedding"] == ["AADAPw=="]

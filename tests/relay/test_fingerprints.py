"""The fingerprints of requests: for one model, one cache and, if so configured, one caller."""

from __future__ import annotations

import dataclasses
import json
import re
from random import Random
from typing import Any

import pytest

from hierarchy.balancing.aliases import Aliases
from hierarchy.balancing.dispatch import Dispatch
from hierarchy.config.model_names import Target
from hierarchy.http.dialect import CHAT, OPENAI, Dialect
from hierarchy.http.model_field import plain_prompt
from hierarchy.http.request_head import RequestHead
from hierarchy.prefix.fingerprint import Fingerprint
from hierarchy.registry import Registry
from hierarchy.relay.fingerprints import Fingerprints, likely_model
from hierarchy.relay.held_bytes import HeldBytes
from hierarchy.relay.request import Request
from hierarchy.security.caller import Caller
from hierarchy.wire.messages import Identity
from tests.builders import model, status_of
from tests.clocks import Clock

TEXT = "What is there to be said of it? " * 40


def head(dialect: Dialect = CHAT, caller: str = "", session: bytes = b"") -> RequestHead:
    made = RequestHead.from_fields(
        (dialect, b"/v1/chat/completions"), [], {}, http10=False, keep_alive=True, within_limits=True,
        caller=Caller(caller),
    )  # fmt: skip
    return dataclasses.replace(made, session=session)


def body(**fields: Any) -> bytes:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": TEXT}]
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def take(fingerprints: Fingerprints, name: str = "m", head_: RequestHead | None = None, **fields: Any) -> Fingerprint:
    prompt = plain_prompt(body(**fields))[2]
    assert prompt is not None
    found = fingerprints.take(prompt, name, head() if head_ is None else head_)
    assert found is not None
    return found


def request(fingerprints: Fingerprints, raw: bytes, engines: int = 2, head_: RequestHead | None = None) -> Request:
    """A request whose body was read at a node with so many engines."""
    registry = Registry(Identity("root", "http://root:1", "r"), Clock())
    for number in range(engines):
        registry.report(registry.declare(f"e{number}", f"http://e{number}:1", "vllm"), status_of(model()))
    made = Request(head() if head_ is None else head_, 0.0, HeldBytes())
    made.set_body(raw)
    made.read_model(Dispatch(registry, "prefix", Random(1)), fingerprints)
    return made


def test_models_and_salts_are_kept_apart_and_callers_if_they_share_nothing() -> None:
    one, alone = Fingerprints("k"), Fingerprints("k")
    alone.shares = False
    seen = [
        take(one), take(one, "n"), take(one, cache_salt="s"), take(one, cache_salt="t"), take(Fingerprints("other")),
        take(alone), take(alone, head_=head(caller="a")), take(alone, head_=head(caller="b")),
    ]  # fmt: skip
    assert len({tuple(fingerprint.digests) for fingerprint in seen}) == len(seen)
    assert take(one, head_=head(caller="a")).digests == take(one).digests


def test_an_alias_that_is_resolved_again_has_the_fingerprint_of_its_new_model() -> None:
    fingerprints, registry = Fingerprints("k"), Registry(Identity("root", "http://root:1", "r"), Clock())
    for name in ("a", "b"):
        child = registry.declare(name, f"http://{name}:1", "vllm")
        registry.report(child, status_of(model("first"), model("second-one")))
    dispatch = Dispatch(registry, "prefix", Random(1), Aliases({"alias": [Target(model="first")]}, Random(1)))
    made = Request(head(), 0.0, HeldBytes())
    made.set_body(body(model="alias"))
    made.read_model(dispatch, fingerprints)
    for name in ("second-one", "first"):
        dispatch.set_aliases({"alias": [Target(model=name)]})
        made.resolve_alias(dispatch, fingerprints)
        assert made.model == name
        assert made.prefix is not None
        assert made.prefix == take(fingerprints, name)
        assert json.loads(made.body()) == json.loads(body(model=name))


def test_what_a_session_has_in_common() -> None:
    alone, several = Fingerprints("k"), Fingerprints("k", has_siblings=True)
    assert take(alone).session == 0
    first = take(several).session
    assert first == take(several, temperature=1).session != 0
    assert take(several, user="u").session not in (0, first)
    named = take(alone, head_=head(session=b"s1")).session
    assert named == take(several, head_=head(session=b"s1")).session != take(alone, head_=head(session=b"s2")).session
    assert take(alone, prompt_cache_key="c", head_=head(session=b"s1")).session not in (0, named)
    assert take(alone, previous_response_id="resp_1").sticky == alone.of_response(b"resp_1")


def test_a_body_without_a_prompt_has_none() -> None:
    fingerprints = Fingerprints("k")
    assert request(fingerprints, body()).prefix is not None
    assert request(fingerprints, b'{"model":"m","input":"%b"}' % (b"x" * 500), head_=head(OPENAI)).prefix is None
    assert request(fingerprints, b'{"model":"m","prompt":"short"}').prefix is None


def test_a_model_with_one_engine_has_none() -> None:
    assert request(Fingerprints("k"), body(), engines=1).prefix is None


@pytest.mark.parametrize("fields", [{}, {"cache_salt": "mine"}, {"cache_salt": None}])
def test_the_engine_keeps_callers_apart_too(fields: dict[str, Any]) -> None:
    fingerprints = Fingerprints("k")
    fingerprints.shares = False
    salts = set()
    for caller in ("a", "b"):
        made = request(fingerprints, body(**fields), head_=head(caller=caller))
        sent = json.loads(made.body())
        assert made.size == len(made.body())
        assert made.find_model().model == "m"
        salts.add(sent.pop("cache_salt"))
        given = json.loads(body(**fields))
        given.pop("cache_salt", None)
        assert sent == given
    assert len(salts) == 2
    assert "mine" not in salts


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        b'{"cache_salt":"x","model":"m","prompt":"%b","cache_salt":"y"}',
        b'{"model":"m","cache\\u005fsalt":"x","prompt":"%b"}',
        b'{"prompt":"%b","cache_salt":{"a":[1]} ,"\\u0063ache_salt" : null, "model":"m" }',
        b'{"prompt":"%b","model":"m"}',
    ],
)
def test_no_reader_of_a_body_finds_the_clients_own_salt(raw: bytes, large: bool) -> None:
    fingerprints = Fingerprints("k")
    fingerprints.shares = False
    text = b"long " * (40_000 if large else 100)
    made = request(fingerprints, raw % text, head_=head(caller="a"))
    sent = b"".join(made.parts)
    pairs = json.loads(sent, object_pairs_hook=list)
    salts = {value for name, value in pairs if name == "cache_salt"}
    assert len(salts) == 1
    assert re.fullmatch("[0-9a-f]{32}", salts.pop())
    assert (made.size, made.find_model().model) == (len(sent), "m")
    assert sent[made.find_model().start : made.find_model().end] == b'"m"'
    assert b"".join(made.parts_with("n")) == sent.replace(b'"m"', b'"n"')
    assert made.prefix is not None
    kept = [(name, value) for name, value in json.loads(raw % text, object_pairs_hook=list) if name != "cache_salt"]
    assert [(name, value) for name, value in pairs if name != "cache_salt"] == kept


def test_the_field_of_a_parent_is_read_once_and_what_is_none_is_not_sent_down() -> None:
    fingerprints = Fingerprints("k")
    made = Request(head(), 0.0, HeldBytes())
    made.prefix_field = fingerprints.write(take(fingerprints))
    assert made.known_prefix(fingerprints) == take(fingerprints)
    assert made.prefix_line(fingerprints) == b"\r\nx-hierarchy-prefix: " + made.prefix_field
    made = Request(head(), 0.0, HeldBytes())
    made.prefix_field = b"nonsense"
    assert made.prefix_line(fingerprints) == b""
    assert made.known_prefix(fingerprints) is None
    assert fingerprints.ignored == 1


def test_the_model_is_guessed_from_the_beginning() -> None:
    assert likely_model(body()) == "m"
    assert likely_model(b'{"a":"\\"model\\":\\"x\\"","model" : "y"}') == "y"
    assert likely_model(b'{"prompt":"' + b"x" * 300 + b'","model":"m"}') == ""

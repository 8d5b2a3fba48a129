"""Messages of children and parents: which are accepted, and that an error names the field."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest, BodyTooLarge, InvalidField, RequestError
from hierarchy.introspection.tree import TreeView
from hierarchy.wire.checks import check_url
from hierarchy.wire.limits import DEFAULT, limits, weigh
from hierarchy.wire.messages import Accepted, Deregistration, HeartBeat, ModelRequest, Registration, decode
from hierarchy.wire.status import MAX_QUEUE, ModelStatus, NodeStatus
from tests.builders import SITE, WORKER, Table, heart_beat, model, registration, report, site, status_of, worker

MAX_SPEED = 1e6
MISSING = object()


def changed(message: dict[str, Any], path: str, value: Any) -> bytes:
    """The message with one field set, or left out."""
    message = copy.deepcopy(message)
    *parents, last = path.split(".")
    target: Any = message
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return json.dumps(message).replace('"1e400"', "1e400").encode()


NO_NUMBERS = [math.nan, math.inf, -math.inf, "1e400", 10**400, None, "1", True, [], {}]
BAD_SPEEDS = [*NO_NUMBERS, 0, -1, -0.0, MAX_SPEED * 1.01]
BAD_QUEUES = [*NO_NUMBERS, -1, 0.5, MAX_QUEUE + 1]
BAD_TEXTS: list[Any] = [None, 1, True, [], {}]
BAD_URLS = [
    *BAD_TEXTS,
    "",
    "w1",
    "w1:21002",
    "//w1",
    "ftp://w1",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://",
    "http:///path",
    "http://:80",
    "http://w1:0",
    "http://w1:65536",
    "http://w1:port",
    "http://[::1",
    "http://w 1",
    "http://w1\r\nx: y",
    "http://w1\0",
    "http://wörker",
    "http://\ud800",
    "http://w1/" + "x" * 2048,
    "http://w1/admin?q=",  # the paths that are appended would become part of the query
    "http://w1/admin#",
    "http://user:pass@w1",
    "http://w1\\@w2",
]
BAD_NAMES = [*BAD_TEXTS, "x" * 257, "a\nb", "a\0", "\ud800", "\u202e"]


def shown(value: Any) -> str:
    return "MISSING" if value is MISSING else f"{value!r:.40}"  # an object's own name differs from process to process


def bad_fields(where: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}={shown(value)}".encode("ascii", "backslashreplace").decode())
        for field, values in where.items()
        for value in values
    ]


BOTH: dict[str, list[Any]] = {
    "node": [*BAD_NAMES, "a/b", "http://w1", "-a", "a b"],
    "instance": BAD_NAMES,
    "version": BAD_NAMES,
    "build": BAD_NAMES,
    "dispatch": BAD_NAMES,
    "seq": [*NO_NUMBERS, -1, 2**63],
    "seen": [*NO_NUMBERS, -1, 2**63],
    "path": [None, 1, "site-a-1", {}, [1], [""], ["x" * 257]],
    "interval_s": [*NO_NUMBERS, 0, -1, 3601],
    "children": [1, "x", [], {"a": math.nan}, {"a": "\ud800"}],
    "models": [1, "m", {}, [1], [{}], [{"name": "m"}] * 2],
    "models.0.name": [*BAD_NAMES, "", MISSING],
    "models.0.api": [None, 1, "", "anthropic"],
    "models.0.speed": BAD_SPEEDS,
    "models.0.queue_length": BAD_QUEUES,
    "models.0.slots": BAD_QUEUES,
}
BAD_REGISTRATIONS = {
    **BOTH,
    "worker_name": [*BAD_URLS, MISSING],
    "check_heart_beat": [MISSING, None, 1, "true", []],
    "worker_status": [1, "x", []],
    "worker_status.model_names": [MISSING, None, "m", [1], [None], ["m", ""], ["x" * 257], ["a\nb"], {}],
    "worker_status.speed": BAD_SPEEDS,
    "worker_status.queue_length": BAD_QUEUES,
    "multimodal": [None, 1, "no"],
    "secret": [*BAD_TEXTS, "a\r\nhost: other", "é", "\ud800", "x" * 257],
}
BAD_REPORTS = {
    **BOTH,
    "worker_name": [*BAD_TEXTS, MISSING],
    "queue_length": [*BAD_QUEUES, MISSING],
    "speed": [*[bad for bad in BAD_SPEEDS if bad is not None], MISSING],
}


def refuse(body: bytes, kind: type[Registration] | type[HeartBeat], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        decode(body, kind).check(MAX_SPEED)
    assert caught.value.status == 422
    param = caught.value.param or ""
    expected = field.replace(".0", "[0]")
    # Half of a surrogate pair is not text, which is found before the fields are read.
    assert (
        param == expected
        or param.startswith((f"{expected}[", f"{expected}."))
        or (param == "body" and b"\\ud800" in body)
    )
    assert str(caught.value).startswith(f"{param}: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("field", "value"), bad_fields(BAD_REGISTRATIONS))
def test_the_error_for_a_bad_registration_names_its_field(field: str, value: Any) -> None:
    refuse(changed(site(secret="s", multimodal=False), field, value), Registration, field)


@pytest.mark.parametrize(("field", "value"), bad_fields(BAD_REPORTS))
def test_the_error_for_a_bad_report_names_its_field(field: str, value: Any) -> None:
    refuse(changed(report(), field, value), HeartBeat, field)


@pytest.mark.parametrize("status", ["worker_status.speed", "worker_status.queue_length"])
def test_a_fastchat_workers_bad_numbers_are_refused_too(status: str) -> None:
    for value in BAD_SPEEDS if status.endswith("speed") else BAD_QUEUES:
        refuse(changed(worker(), status, value), Registration, status)


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
@pytest.mark.parametrize("kind", [Registration, HeartBeat, Deregistration, ModelRequest])
def test_a_body_that_is_not_json_is_a_bad_request(body: bytes, kind: type[Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(body, kind)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"x"', b"NaN"])
def test_json_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField, match=r"^body: expected `object`"):
        decode(body, Registration)


@pytest.mark.parametrize("body", [rb'"\ud800"', rb'{"\ud800": 1}', rb'{"worker_name": "http://w1", "model": "\ud800"}'])
@pytest.mark.parametrize("kind", [Registration, HeartBeat, ModelRequest])
def test_half_a_surrogate_pair_in_an_ignored_field_raises_no_other_error(body: bytes, kind: type[Any]) -> None:
    with contextlib.suppress(InvalidField):
        assert decode(body, kind) == ModelRequest("\ud800")


def test_a_model_must_be_a_string() -> None:
    with pytest.raises(InvalidField, match=r"^model: is missing"):
        decode(b"{}", ModelRequest)
    with pytest.raises(InvalidField, match=r"^model: expected `str`"):
        decode(b'{"model": 1}', ModelRequest)


@pytest.mark.parametrize(
    "url",
    ["http://w1", "http://w1:21002/", "https://10.0.0.1:1", "http://[::1]:8000", "http://w1/base/path", "HTTP://w1"],
)
def test_usable_urls_are_accepted(url: str) -> None:
    check_url("worker_name", url)


# -- accepted messages ------------------------------------------------------------------------------------------------


def test_a_fastchat_workers_status_counts_for_each_of_its_models() -> None:
    status = registration(worker(models=["a", "b", "a"], speed=2, queue_length=3)).check(MAX_SPEED)
    assert status == NodeStatus((ModelStatus("a", "fastchat", 2, 3), ModelStatus("b", "fastchat", 2, 3)), 2, 3)


def test_a_worker_may_register_without_a_status() -> None:
    message = registration({**worker(), "worker_status": None})
    assert message.check(MAX_SPEED) is None
    assert message.worker_name == WORKER


def test_a_nodes_status_is_per_model() -> None:
    models = (model("a", 4, 2, slots=8), model("a", 1, 1, api="fastchat"))
    status = registration(site("site-a", *models)).check(MAX_SPEED)
    assert status == NodeStatus(models, 4, 3)
    assert heart_beat(report("site-a", *models)).check(MAX_SPEED) == status


def test_a_node_without_engines_yet_has_no_speed() -> None:
    empty = {**site(), "models": [], "worker_status": {"model_names": [], "speed": 0, "queue_length": 0}}
    assert registration(empty).check(MAX_SPEED) == NodeStatus()
    with pytest.raises(InvalidField, match=r"^worker_status.speed: 0"):
        registration({**empty, "models": [{"name": "m"}]}).check(MAX_SPEED)


def test_a_workers_heartbeat_carries_no_status() -> None:
    assert heart_beat({"worker_name": WORKER, "queue_length": 4}).check(MAX_SPEED) is None


def test_unknown_fields_are_ignored() -> None:
    message = site(future={"a": [1, None]}, worker_status={**site()["worker_status"], "future": 1})
    message["models"][0]["future"] = "x"
    assert registration(message) == registration(site())
    assert heart_beat({**report(), "future": math.nan}) == heart_beat(report())


def test_a_fastchat_message_may_have_any_order_and_no_fields_of_nodes() -> None:
    assert registration(dict(reversed(worker().items()))) == registration(worker())
    bare = registration(worker())
    assert (bare.node, bare.instance, bare.seq, bare.path, bare.models) == ("", "", 0, [], None)


def test_fields_that_are_missing_or_unknown_have_their_defaults() -> None:
    assert decode(b'{"future": 1}', Accepted) == Accepted()
    assert decode(b'{"worker_name": "%b"}' % SITE.encode(), Deregistration).instance == ""


# -- any input -------------------------------------------------------------------------------------------------------

odd_numbers = st.sampled_from([0, -1, 2**63, 2**64, 10**400, math.nan, math.inf, 1e308, -0.0])
odd_texts = st.sampled_from(["", "\ud800", "a\r\nb", "http://x", "http://1.2.3.999", "openai", "m", "x" * 300])
leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | odd_numbers | odd_texts
fields = st.sampled_from(
    [*Registration.__struct_fields__, *HeartBeat.__struct_fields__, *ModelStatus.__struct_fields__, "model_names"]
)
values = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5), max_leaves=15
)


def accept_or_refuse(message: Any) -> None:
    kinds: list[type[Registration] | type[HeartBeat]] = [Registration, HeartBeat]
    for kind in kinds:
        try:
            status = decode(json.dumps(message).encode(), kind).check(MAX_SPEED)
        except RequestError as error:
            json.dumps(error.openai()).encode()
        else:
            assert status is None or 0 <= status.queue_length <= MAX_QUEUE
            assert status is None or all(0 < m.speed <= MAX_SPEED for m in status.models)


@given(values)
def test_any_json_is_accepted_or_refused(message: Any) -> None:
    accept_or_refuse(message)


@given(st.dictionaries(fields, values, max_size=3), st.booleans())
def test_a_good_message_with_any_field_changed_is_accepted_or_refused(odd: dict[str, Any], whole: bool) -> None:
    accept_or_refuse({**(site() if whole else worker()), **report(), **odd})


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:\\u0d8naN1e-. '), max_size=40).map(str.encode))
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    for kind in (Registration, HeartBeat, Deregistration, ModelRequest):
        try:
            decode(body, kind)
        except BadRequest:
            continue


def test_a_child_that_lists_more_than_its_share_is_refused() -> None:
    """Its parent repeats the models three times in a message of its own, which must stay below the limit."""
    small = limits(32 * 1024)
    many = [model(f"m{number}") for number in range(200)]
    with pytest.raises(InvalidField, match="200 models"):
        registration(site("site-a", *many)).check(MAX_SPEED, small)
    with pytest.raises(InvalidField, match="200 models"):
        heart_beat(report("site-a", *many)).check(MAX_SPEED, small)
    with pytest.raises(InvalidField, match="200 models"):
        registration(worker(models=[row.name for row in many])).check(MAX_SPEED, small)
    with pytest.raises(InvalidField, match="instances"):
        registration(site("site-a", path=["x" * 200] * 100)).check(MAX_SPEED, small)
    assert registration(site("site-a", *many[:10])).check(MAX_SPEED, small) is not None


def test_an_honest_tree_fits_into_a_childs_share() -> None:
    """10,000 models with ordinary names, and 5,000 engines with two models each."""
    many = [model(f"meta-llama/Llama-3.1-{number:06}-Instruct") for number in range(10_000)]
    registration(site("site-a", *many, path=["0123456789abcdef"] * 5000)).check(MAX_SPEED)
    table = Table()
    for number in range(2):
        engine = table.declare(f"gpu-{number}", f"http://gpu-{number}.example.com:8000", "vllm")
        table.report(engine, status_of(*many[:2]))
    size, values, _ = weigh(TreeView(table, table.clock).children())
    assert 2500 * size < DEFAULT.subtree_bytes
    assert 2500 * values < DEFAULT.subtree_values
    assert 2500 * values + 10_000 * 7 < DEFAULT.message_values


@pytest.mark.parametrize("kind", [Registration, HeartBeat])
def test_a_message_with_too_many_values_is_refused_before_it_is_decoded(kind: type) -> None:
    body = b'{"children": {"a": [' + b"[]," * 1_000_000 + b"1]}}"
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge, match="values"):
            decode(body, kind)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()

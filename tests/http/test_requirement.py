"""What a request requires: of a client by its key and its field, of a parent by its field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import BadRequest, LabelNotAllowed
from hierarchy.http.requirement import required
from hierarchy.labels import Requirement
from hierarchy.security.caller import ANYONE, Caller

EU = Requirement({"region": "eu"})
KEY = Caller("ann", require=EU)


def test_without_a_field_the_key_decides() -> None:
    assert required(ANYONE, None) == (None, None, None)
    assert required(KEY, None) == (EU, None, None)


def test_the_field_narrows_what_the_key_requires() -> None:
    require, above, error = required(KEY, b"trust=own")
    assert require == Requirement({"region": "eu", "trust": "own"})
    assert error is None
    assert above is not None
    assert above.require == Requirement({"trust": "own"}), "a parent has narrowed it already"
    assert required(ANYONE, b"trust=own")[0] == Requirement({"trust": "own"})


def test_another_value_than_the_keys_is_refused() -> None:
    require, _, error = required(KEY, b"region=us")
    assert isinstance(error, LabelNotAllowed)
    assert "region" in str(error)
    assert require == EU


def test_only_a_parent_says_what_all_of_a_subtree_has() -> None:
    require, above, error = required(KEY, b"region=eu!,trust=own")
    assert above is not None
    assert above.error is None
    assert above.require == Requirement({"region": "eu", "trust": "own"}, ["region"])
    assert isinstance(error, BadRequest)
    assert require == EU


@given(st.binary(max_size=60))
def test_whatever_is_sent_requires_at_least_what_the_key_does(value: bytes) -> None:
    require, above, error = required(KEY, value)
    assert require is not None
    assert set(EU.pairs) <= set(require.pairs)
    assert not require.vouched
    assert above is not None
    assert (above.require is None) is (above.error is not None)
    if error is None:
        assert above.require is not None


@pytest.mark.parametrize("value", [b"", b"\xff", b"region", b"region=eu,", b"region=eu/us", b"a=b" * 400])
def test_what_cannot_be_read_refuses_the_request(value: bytes) -> None:
    _, above, error = required(ANYONE, value)
    assert isinstance(error, BadRequest)
    assert error.param == "x-hierarchy-require"
    assert above is not None
    assert isinstance(above.error, BadRequest)

"""Tree keys, join tokens and credentials: what they contain, and what is refused."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.errors import InvalidToken, UsageError
from hierarchy.security.tokens import CREDENTIAL_S, Signer, create_tree_key, derive_parent_key, lifetime, parent_key
from tests.clocks import Clock

TREE = create_tree_key()
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


def signer(parent: str = "root", tree: str = TREE, clock: Clock | None = None) -> Signer:
    return Signer(parent, parent_key(tree, parent), clock or Clock())


@given(names, names, st.none() | st.lists(st.text(min_size=1, max_size=10), max_size=4))
def test_a_token_contains_what_it_was_created_for(node: str, parent: str, models: list[str] | None) -> None:
    one = signer(parent)
    grant = one.check(one.join_token(node, 60, models))
    assert (grant.kind, grant.node, grant.parent) == ("join", node, parent)
    assert grant.models == (None if models is None else frozenset(models))
    credential = one.check(one.credential(grant))
    assert (credential.kind, credential.node, credential.identity) == ("credential", node, grant.identity)
    assert credential.models == grant.models


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_that_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        signer().check(text)


@given(st.data())
def test_a_token_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    token = signer().join_token("site-a", 60)
    place = data.draw(st.integers(0, len(token) - 2))  # base64's last character has bits that mean nothing
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[place]))
    with pytest.raises(InvalidToken):
        signer().check(token[:place] + other + token[place + 1 :])


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(st.dictionaries(st.sampled_from(["sub", "exp", "iat", "jti", "kind", "models", "nbf"]), json_values))
def test_malformed_claims_are_refused_even_if_well_signed(claims: dict[str, object]) -> None:
    token = jwt.encode({"aud": "root", **claims}, parent_key(TREE, "root"), "HS256")
    with pytest.raises(InvalidToken):
        signer().check(token)


def test_a_token_without_signature_or_of_another_algorithm_is_refused() -> None:
    good = signer().join_token("site-a", 60)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    for forged in (f"{header}.{good.split('.')[1]}.", jwt.encode(claims, parent_key(TREE, "root") * 2, "HS512")):
        with pytest.raises(InvalidToken):
            signer().check(forged)


def test_expiry_is_checked_with_the_injected_clock() -> None:
    clock = Clock()
    one = signer(clock=clock)
    token = one.join_token("site-a", 60)
    clock.tick(59)
    one.check(token)
    clock.tick(1)
    with pytest.raises(InvalidToken, match="expired"):
        one.check(token)


def test_a_credential_is_replaced_in_the_second_half_of_its_life() -> None:
    clock = Clock()
    one = signer(clock=clock)
    assert one.needs_renewal(one.check(one.join_token("site-a", 60)))
    credential = one.check(one.credential(one.check(one.join_token("site-a", 60))))
    assert not one.needs_renewal(credential)
    clock.tick(CREDENTIAL_S / 2 + 1)
    assert one.needs_renewal(credential)


def test_a_parents_own_key_signs_nothing_for_another_parent() -> None:
    own = derive_parent_key(TREE, "site-a")
    assert parent_key(own, "site-a") == parent_key(TREE, "site-a") != parent_key(TREE, "root")
    with pytest.raises(UsageError, match='the key of node "site-a"'):
        parent_key(own, "root")
    forged = Signer("root", parent_key(own, "site-a"), Clock()).join_token("site-b", 60)
    with pytest.raises(InvalidToken, match="another key, or for another parent"):
        signer("root").check(forged)
    with pytest.raises(InvalidToken):
        signer("root").check(signer("site-a").join_token("x", 60))


@pytest.mark.parametrize(
    "text",
    ["", "tree:", "tree:abc", "node:root", "node:root:abc", "secret", pytest.param(TREE[:-2], id="cut"), "tree:" + "é"],
)
def test_a_text_that_is_not_a_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parent_key(text, "root")
    assert len(text) < 5 or text.partition(":")[2] not in str(caught.value) or not text.partition(":")[2]


def test_a_credential_keeps_the_moment_at_which_its_token_was_issued() -> None:
    clock = Clock()
    one = signer(clock=clock)
    credential = one.join_token("site-a", 60)
    for _ in range(3):
        clock.tick(10)
        grant = one.check(credential)
        assert grant.since == 1000.0
        credential = one.credential(grant)
    assert one.check(credential).issued == 1030.0


def test_a_credential_of_an_earlier_release_began_when_it_was_issued() -> None:
    claims = {"sub": "site-a", "aud": "root", "iat": 900.0, "exp": 2000.0, "jti": "i", "kind": "credential"}
    assert signer().check(jwt.encode(claims, parent_key(TREE, "root"), "HS256")).since == 900.0


def test_two_keys_are_valid_while_one_replaces_the_other() -> None:
    new_tree = create_tree_key()
    clock = Clock()
    old, new = signer(clock=clock), signer(tree=new_tree, clock=clock)
    both = Signer("root", parent_key(new_tree, "root"), clock, [parent_key(TREE, "root")])
    shown = both.check(old.credential(old.check(old.join_token("site-a", 60))))
    assert (shown.old_key, both.needs_renewal(shown)) == (True, True)
    renewed = both.credential(shown)
    assert not new.check(renewed).old_key, "the new key signs"
    assert not both.needs_renewal(both.check(renewed))
    with pytest.raises(InvalidToken, match="another key"):
        old.check(renewed)
    with pytest.raises(InvalidToken, match="another key"):
        both.check(signer(tree=create_tree_key()).join_token("site-a", 60))
    same = Signer("root", parent_key(TREE, "root"), clock, [parent_key(TREE, "root")])
    assert not same.check(old.join_token("site-a", 60)).old_key


def test_the_lifetime_of_what_a_child_stores_is_read_without_its_key() -> None:
    one = signer()
    assert lifetime(one.join_token("site-a", 60)) == (1000.0, 1060.0)
    assert [lifetime(text) for text in ("", "x", "a.b.c")] == [None] * 3


def test_labels_stay_with_what_comes_from_a_token() -> None:
    one = signer()
    grant = one.check(one.join_token("site-a", 60, labels={"region": "eu/us", "trust": "own"}))
    assert grant.labels == {"region": "eu/us", "trust": "own"}
    credential = one.check(one.credential(grant))
    assert credential.labels == grant.labels
    assert one.renewed(credential).labels == grant.labels
    assert one.check(one.join_token("site-a", 60)).labels is None


@pytest.mark.parametrize("labels", [{}, {"a b": "c"}, {"a": ""}, {"*": ""}, {"a": "?"}])
def test_a_token_with_labels_that_are_none_is_not_accepted(labels: dict[str, str]) -> None:
    one = signer()
    with pytest.raises(InvalidToken):
        one.check(one.join_token("site-a", 60, labels=labels))

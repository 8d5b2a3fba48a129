"""The directory finds what a search through all children would find, whatever came, changed and left."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hierarchy.config.address import place_of
from hierarchy.errors import NameTaken
from hierarchy.registry.admission import Claim, rivals
from hierarchy.registry.child import Child
from tests.builders import Table, registration, site, worker

URLS = ("http://a:1", "http://b:1", "http://A:1/", "http://127.0.0.1:1", "http://localhost:1", "http://a:1/x")
ADDRESSES = st.frozensets(st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1"]), max_size=2)
NAMES = ("s", "t", "u")


class Machine(RuleBasedStateMachine):
    """Children of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.seq = 1
        self.table.declare("engine", "http://b:1", "vllm")

    @rule(
        name=st.sampled_from(NAMES),
        url=st.sampled_from(URLS),
        number=st.integers(1, 2),
        addresses=ADDRESSES,
        replica=st.booleans(),
    )
    def register(self, name: str, url: str, number: int, addresses: frozenset[str], *, replica: bool) -> None:
        self.seq += 1
        fields: dict[str, Any] = {"instance": f"{name}{number}", "secret": f"secret-{number}", "seq": self.seq}
        message = site(name, url=url, **fields, path=[f"{name}{number}"], replica=replica)
        self.attempt(message, Claim(addresses=addresses, proof=2))

    @rule(url=st.sampled_from(URLS))
    def work(self, url: str) -> None:
        self.attempt(worker(url), Claim())

    def attempt(self, message: dict[str, Any], claim: Claim) -> None:
        with contextlib.suppress(NameTaken):
            self.table.register(registration(message), claim=claim)

    @rule(data=st.data(), departs=st.booleans())
    def leave(self, data: Any, *, departs: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.table.children) or ["engine"]))
        if departs:
            self.table.depart(name)
        else:
            self.table.remove(name)

    @rule(seconds=st.sampled_from([1, 20, 400]))
    def wait(self, seconds: float) -> None:
        self.table.clock.tick(seconds)
        self.table.sweep()

    @invariant()
    def finds_the_same(self) -> None:
        table, directory = self.table, self.table.directory
        here, known = list(table), [*table, *table.departed.values()]
        assert len(directory) == len(known)
        for url in URLS:
            assert set(directory.at_url(url)) == {child for child in known if child.url == url}
            named = [child for child in here if child.name == url or child.url == url.rstrip("/")]
            assert table.find(url) in named if named else table.find(url) is None
            for addresses in (frozenset[str](), frozenset({"10.0.0.1", "127.0.0.1"})):
                found = set(directory.at_place(place_of(url), addresses))
                assert found == {child for child in known if child.is_at(place_of(url), addresses)}
        for name in NAMES:
            assert set(directory.instances(name)) == {child for child in here if child.group == name}
            assert set(directory.all_instances(name)) == {child for child in known if child.group == name}
        for number in range(1, 4):
            secret = b"secret-%d" % number
            assert set(directory.with_secret(secret)) == {child for child in here if child.secret == secret}
        assert not directory.with_secret(b"")


TestDirectory = Machine.TestCase
TestDirectory.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_children_that_left_are_the_last_rivals() -> None:
    """So that an address which a child has now is said to be that child's."""
    table = Table()
    left = table.add(site("left", url="http://a:1"))
    table.depart("left")
    here = table.register(registration(site("here", url="http://a:1")), claim=Claim(proof=2))
    message = registration(site("new", url="http://a:1"))
    assert rivals(table.directory, "new", message, Claim()) == [here, left]
    assert isinstance(here, Child)

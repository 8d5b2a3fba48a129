"""Who has a URL: the child that is there. Several spellings are one URL, and no other child keeps a site's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.address import canonical_host, place_of
from hierarchy.errors import ChildFailed, NameTaken
from hierarchy.registry.admission import OWNS, UNPROVEN, Claim
from tests.builders import Table, registration, site, worker
from tests.cluster import Cluster, Running
from tests.mock_transport import MockTransport
from tests.security.keyed import Keys, bearer
from tests.support import DEADLINE_S, eventually, free_port


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


# -- spellings -------------------------------------------------------------------------------------------------------

SPELLINGS = {
    "http://localhost:80": [
        "http://LocalHost",
        "http://localhost.:80/",
        "http://localhost:080//",
        "http://localhost/.",
    ],
    "http://127.0.0.1:8001": [
        "http://0177.0.0.1:8001",
        "http://0x7f.0.0.1:8001",
        "http://0x7f000001:8001",
        "http://2130706433:8001",
        "http://127.1:8001",
        "http://127.0.1:8001/",
        "http://[::ffff:127.0.0.1]:8001",
        "http://[::FFFF:7f00:1]:8001",
        "https://127.0.0.1:8001",
        "http://127.0.0.1.:8001/a/..",
        "http://127.0.0.1:8001/%2e/",
    ],
    "http://[2001:db8::1]:1": ["http://[2001:0db8:0:0:0:0:0:1]:1", "http://[2001:DB8::0001]:1"],
    "https://xn--bcher-kva.example": ["https://XN--BCHER-KVA.Example.:443"],
}


@pytest.mark.parametrize(("usual", "other"), [(url, one) for url, more in SPELLINGS.items() for one in more])
def test_all_spellings_of_a_url_lead_to_one_place(usual: str, other: str) -> None:
    assert place_of(other) == place_of(usual)
    table = Table()
    table.add(site("site-a", url=usual))
    for message in (site("site-b", url=other), worker(other)):
        with pytest.raises(NameTaken, match="already that of 'site-a'"):
            table.add(message)


@pytest.mark.parametrize("host", ["1.2.3.4.5", "08.0.0.1", "256.0.0.1", "1.2.3.256", "4294967296", "a.1", "0xg", ""])
def test_what_is_no_address_stays_a_name(host: str) -> None:
    assert canonical_host(host) == host


def test_a_name_and_its_address_are_one_place_unless_each_child_shows_that_it_is_there() -> None:
    table, address = Table(), frozenset({"10.0.0.5"})
    table.register(registration(site("site-a", url="http://a.example:1")), claim=Claim(addresses=address))
    for other in ("http://b.example:1", "http://10.0.0.5:1"):
        message = registration(site("site-b", url=other))
        with pytest.raises(NameTaken):
            table.register(message, claim=Claim(addresses=address))
    assert table.register(message, claim=Claim(addresses=address, proof=OWNS)).name == "site-b"
    assert table.register(registration(site("site-c", url="http://a.example:2"))).name == "site-c"


# -- who has it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [True, False], ids=["left", "silent"])
def test_the_url_of_a_child_that_is_away_is_kept_for_it(leaves: bool) -> None:
    table = Table()
    table.register(registration(site("site-a")), "a")
    if leaves:
        table.depart("site-a")
    else:
        table.clock.tick(3)
    other = registration(site("site-b", url="http://SITE-A:21001"))
    with pytest.raises(NameTaken, match="was that of 'site-a'"):
        table.register(other, "b", Claim(proof=UNPROVEN))
    again = registration(site("site-a", instance="site-a-2"))
    assert table.register(again, "a").instance == "site-a-2"
    table.depart("site-a")
    table.clock.tick(table.remember_s)
    table.sweep()
    assert table.register(other, "b").name == "site-b"


def test_a_machine_that_gets_another_name_keeps_its_url() -> None:
    table = Table()
    table.register(registration(site("site-a")), "a")
    table.depart("site-a")
    renamed = registration(site("site-b", url="http://site-a:21001"))
    assert table.register(renamed, "b", Claim(proof=OWNS)).url == "http://site-a:21001"


def evil_site(root: Running, keys: Keys, name: str = "evil") -> Callable[..., httpx.Response]:
    """Registrations of a site with a credential, whatever it says."""
    credential = keys.token(name)

    def register(url: str, **fields: Any) -> httpx.Response:
        nonlocal credential
        message = {**site(name), "worker_name": url, "secret": "evils-own", "interval_s": 60.0, **fields}
        response = httpx.post(
            f"{root.url}/register_worker", json=message, headers=bearer(credential), timeout=DEADLINE_S
        )
        if response.status_code == 200:
            credential = response.json()["credential"] or credential
        return response

    return register


def joining_site(cluster: Cluster, keys: Keys, root: Running, port: int, **fields: Any) -> Running:
    settings = keys.settings(**fields)
    return cluster.node("site-a", parents=(root.url,), settings=settings, port=port)


def has_joined(root: Running, at: Running) -> bool:
    child = root.node.registry.children.get("site-a")
    return child is not None and child.instance == at.node.identity.instance


@pytest.mark.parametrize(
    "spelled", ["http://127.0.0.1:{}", "http://localhost:{}", "http://127.1:{}", "http://0177.0.0.1:{}"]
)
def test_a_site_that_restarts_finds_its_url_again(cluster: Cluster, keys: Keys, spelled: str) -> None:
    """Before: another registered under it in the meantime, and the site got 409 for as long as that one reported."""
    root = cluster.node("root", settings=keys.settings())
    port = free_port()
    site_a = joining_site(cluster, keys, root, port, join_token=keys.token_file("site-a"))
    eventually(lambda: has_joined(root, site_a), "the site to join")
    register = evil_site(root, keys)
    assert register(spelled.format(port)).status_code == 409, "while the site lives"
    assert register(spelled.format(port), instance=site_a.node.identity.instance).status_code == 409
    cluster.stop(site_a)
    register(spelled.format(port))
    site_a = joining_site(cluster, keys, root, port)
    eventually(lambda: has_joined(root, site_a), "the site to come back")
    if (evil := root.node.registry.children.get("evil")) is not None:
        assert evil.place != root.node.registry.children["site-a"].place


def test_a_site_takes_its_url_from_one_that_is_not_there(cluster: Cluster, keys: Keys) -> None:
    root = cluster.node("root", settings=keys.settings())
    port = free_port()
    register = evil_site(root, keys)
    assert register(f"http://127.0.0.1:{port}").status_code == 200, "its own address, which nobody else has"
    site_a = joining_site(cluster, keys, root, port, join_token=keys.token_file("site-a"))
    eventually(lambda: has_joined(root, site_a), "the site to join")
    assert "evil" not in root.node.registry.children
    assert register(f"http://127.0.0.1:{port}").status_code == 409


def test_a_node_without_keys_gives_a_url_to_the_one_that_is_there(cluster: Cluster) -> None:
    root = cluster.node("root")
    port = free_port()
    message = site("evil", url=f"http://127.0.0.1:{port}", interval_s=60.0)
    assert httpx.post(f"{root.url}/register_worker", json=message, timeout=DEADLINE_S).status_code == 200
    site_a = cluster.node("site-a", parents=(root.url,), port=port)
    eventually(lambda: has_joined(root, site_a), "the site to join")
    assert list(root.node.registry.children) == ["site-a"]


# -- whose address it may be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "peer", "allow", "is_refused"),
    [
        ("http://10.0.0.9:21001", "10.0.0.5", [], True),
        ("http://10.0.0.5:21001", "10.0.0.5", [], False),
        ("http://10.0.0.5:21001", "::ffff:10.0.0.5", [], False),
        ("http://10.0.0.9:21001", "10.0.0.5", ["10.0.0.0/24"], False),
        ("http://10.0.0.9:21001", "127.0.0.1", [], False),
    ],
    ids=["another machine", "its own", "its own, in IPv6", "allowed", "this machine"],
)
def test_a_site_that_is_not_found_at_its_url_may_name_its_own_address_only(
    cluster: Cluster, keys: Keys, url: str, peer: str, allow: list[str], is_refused: bool
) -> None:
    root = cluster.node("root", settings=keys.settings(cleartext=True, allow=allow))
    root.node.urls.start(MockTransport(lambda _: httpx.Response(404)))
    message = registration(site("site-a", url=url, secret="s"))
    if is_refused:
        with pytest.raises(ChildFailed, match="link: auto"):
            cluster.call(root.node.urls.examine(message, peer))
    else:
        claim, _ = cluster.call(root.node.urls.examine(message, peer))
        assert claim == Claim(addresses=frozenset({url[7:].partition(":")[0]}))


def test_a_site_behind_an_address_translation_may_name_where_it_is_found(cluster: Cluster, keys: Keys) -> None:
    root = cluster.node("root", settings=keys.settings(cleartext=True))
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((str(request.url), request.headers["x-hierarchy-auth"]))
        return httpx.Response(200, json={"status": "ok", "instance": "site-a-1", "parent": True})

    root.node.urls.start(MockTransport(answer))
    message = registration(site("site-a", url="http://10.0.0.9:21001", secret="s"))
    claim, _ = cluster.call(root.node.urls.examine(message, "10.0.0.5"))
    assert (claim.proof, claim.reverse) == (OWNS, False)
    assert asked == [("http://10.0.0.9:21001/health", "s")]
    child = cluster.call(_register(root, message, claim))
    assert child.proof == OWNS
    cluster.call(root.node.urls.examine(message, "10.0.0.5"))
    assert len(asked) == 1, "a process that was found is not asked at each registration"


async def _register(root: Running, message: Any, claim: Claim) -> Any:
    return root.node.registry.register(message, "a", claim)

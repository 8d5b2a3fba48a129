"""Two instances of a root without a common state folder: what each learns of the other's tokens and revocations.

Real nodes on real sockets. Records travel through the children here, or directly where a test says so.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hierarchy.config.models import NodeConfig
from hierarchy.gossip import Board
from hierarchy.security.record_keeper import REVOKED
from hierarchy.security.token_store import TokenStore
from tests.builders import report, site
from tests.cluster import Cluster, Running
from tests.security.keyed import ME, Keys, bearer
from tests.support import eventually, free_port


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def root(
    cluster: Cluster, keys: Keys, name: str, *, port: int = 0, peers: tuple[str, ...] = (), **security: Any
) -> Running:
    """An instance of the root, with a state folder of its own."""
    config = NodeConfig(
        name=name,
        listen=(("127.0.0.1", port),),
        advertise=ME,
        replica_of="root",
        replicas=peers,
        settings=keys.settings(**security),
    )
    return cluster.serve(config)


def child(cluster: Cluster, keys: Keys, name: str, roots: tuple[Running, ...], **security: Any) -> Running:
    """A site below these roots."""
    settings = keys.settings(**security)
    return cluster.node(name, parents=tuple(one.url for one in roots), settings=settings)


def is_registered(node: Running, name: str) -> bool:
    return name in node.node.registry.children


def have_joined(node: Running) -> bool:
    return all(uplink.registered for uplink in node.node.uplinks)


def register(at: Running, token: str, name: str = "thief", **fields: Any) -> httpx.Response:
    """Register a process by hand."""
    message = site(name, instance="another", secret="another-secret", url="http://127.0.0.1:9", **fields)
    return httpx.post(f"{at.url}/register_worker", json=message, headers=bearer(token))


def revoke(at: Running, keys: Keys, name: str) -> None:
    response = httpx.post(f"{at.url}/admin/revoke", json={"node": name}, headers=bearer(keys.admin))
    response.raise_for_status()


def tree(at: Running, keys: Keys) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{at.url}/tree", headers=bearer(keys.admin)).raise_for_status().json()
    return found


def store(at: Running) -> TokenStore:
    records = at.node.access.registration_policy.records
    assert records is not None
    return records.store


def knows(at: Running, check: Callable[[TokenStore], bool]) -> bool:
    return check(store(at))


@pytest.fixture(params=["through a child", "directly"])
def roots(cluster: Cluster, keys: Keys, request: pytest.FixtureRequest) -> tuple[Running, Running]:
    """Two instances that know each other's records through a common child, or directly."""
    if request.param == "through a child":
        both = root(cluster, keys, "root"), root(cluster, keys, "root-b")
        carrier = child(cluster, keys, "carrier", both, join_token=keys.token_file("carrier"))
        eventually(partial(have_joined, carrier), "the common child to join")
        return both
    ports = free_port(), free_port()
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    return (
        root(cluster, keys, "root", port=ports[0], peers=(urls[1],)),
        root(cluster, keys, "root-b", port=ports[1], peers=(urls[0],)),
    )


def test_a_join_token_that_was_used_at_one_root_is_refused_by_the_other(
    roots: tuple[Running, Running], keys: Keys
) -> None:
    token = keys.token("site-a")
    process = site("site-a", url="http://127.0.0.1:8", process="known to the process")
    first = httpx.post(f"{roots[0].url}/register_worker", json={**process, "secret": "1"}, headers=bearer(token))
    assert first.status_code == 200
    identity = roots[0].node.registry.children["site-a"].identity
    eventually(lambda: store(roots[1]).used_by(identity), "the other root to learn it", 5.0)
    refused = register(roots[1], token, "site-a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_token")
    assert "used already" in refused.json()["error"]["message"]
    again = httpx.post(f"{roots[1].url}/register_worker", json={**process, "secret": "2"}, headers=bearer(token))
    assert again.status_code == 200, "the process that used it may use it at each root"


def test_a_site_that_is_revoked_at_one_root_is_disconnected_from_the_other_and_stays_revoked(
    cluster: Cluster, roots: tuple[Running, Running], keys: Keys
) -> None:
    joined = child(cluster, keys, "site-a", roots, join_token=keys.token_file("site-a"))
    eventually(partial(have_joined, joined), "the site to join both")
    file = keys.folder / "state" / "site-a" / "credential"
    eventually(file.exists, "its credential to be saved")
    credential = file.read_text().strip()
    revoke(roots[0], keys, "site-a")
    eventually(lambda: not is_registered(roots[1], "site-a"), "the other root to disconnect it", 5.0)
    for at in roots:
        assert "revoked" in register(at, credential, "site-a").json()["error"]["message"]
    saved, revoked_at = keys.folder / "state" / "root-b" / "state.json", store(roots[1]).revoked()["site-a"]
    eventually(lambda: TokenStore(saved).is_revoked("site-a", revoked_at), "it to be saved, for a restart")


def test_a_revocation_outlives_a_credential_that_the_other_root_renews_before_it_knows(
    cluster: Cluster, keys: Keys
) -> None:
    one, other = root(cluster, keys, "root"), root(cluster, keys, "root-b")
    token = keys.token("site-a")
    shown = register(one, token, "site-a").json()["credential"]
    revoke(one, keys, "site-a")
    late = register(other, token, "site-a").json()["credential"]  # they know nothing of each other yet
    assert late not in ("", shown)
    carrier = child(cluster, keys, "carrier", (one, other), join_token=keys.token_file("carrier"))
    eventually(partial(have_joined, carrier), "a child that carries the revocation")
    eventually(lambda: register(other, late, "site-a").status_code == 401, "the later credential to be void", 5.0)


def test_more_records_than_a_message_has_arrive(cluster: Cluster, roots: tuple[Running, Running], keys: Keys) -> None:
    names = [f"gone-{number}" for number in range(600)]
    boards = [at.node.board for at in roots]

    async def publish() -> None:
        for name in names:
            boards[0].publish(REVOKED, name, {"at": 5.0})

    cluster.call(publish())
    eventually(lambda: all(store(roots[1]).is_revoked(name, 1.0) for name in names), "all revocations")
    assert boards[1].revision < 900, "records do not go round in a circle"


def test_a_child_cannot_forge_or_change_records(cluster: Cluster, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    at = root(cluster, keys, "root")
    registered = site("site-a", url="http://127.0.0.1:9", secret="s")
    token = keys.token("site-a")
    assert httpx.post(f"{at.url}/register_worker", json=registered, headers=bearer(token)).status_code == 200
    other = Board("root", (b"x" * 32,))
    other.publish(REVOKED, "site-b", {"at": 9e9})
    forged = msgspec.to_builtins(other.news(0, ("root",))[0])
    changed = [{**forged[0], "mac": "0" * 64}, {**forged[0], "node": "site-a"}]
    message = report("site-a", url="http://127.0.0.1:9", shared=[*forged, *changed])
    sent = httpx.post(f"{at.url}/receive_heart_beat", json=message, headers={"x-hierarchy-auth": "s"})
    assert sent.json()["exist"] is True
    assert not store(at).is_revoked("site-b", 1.0)
    assert len([record for record in caplog.records if "is not signed with this node's key" in record.message]) == 1
    for page in (token, "x", "a" * 100_000, "{}", keys.token("site-b")):
        refused = httpx.post(f"{at.url}/exchange_records", json={"page": page})
        assert (refused.status_code, refused.json()["error"]["code"]) in (
            (401, "invalid_token"),
            (413, "body_too_large"),
        )


# a lost state folder


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.ERROR]


def lose_state(cluster: Cluster, keys: Keys, at: Running, **options: Any) -> Running:
    """Stop a root, remove its state folder and start it again at the same port."""
    name, port = at.node.config.name, at.port
    cluster.stop(at)
    shutil.rmtree(keys.folder / "state" / name)
    return root(cluster, keys, name, port=port, **options)


def test_a_root_that_lost_its_state_says_so_and_gives_no_new_credential_until_it_is_confirmed(
    cluster: Cluster, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    at = root(cluster, keys, "root")
    honest = child(cluster, keys, "site-a", (at,), join_token=keys.token_file("site-a"))
    eventually(partial(have_joined, honest), "a site to join")
    stolen = keys.token("site-b")
    assert register(at, stolen, "site-b").json()["credential"]
    revoke(at, keys, "site-b")
    at = lose_state(cluster, keys, at)
    # Its children come back with credentials that are older than its records.
    eventually(lambda: is_registered(at, "site-a"), "the site to come back")
    refused = register(at, stolen, "site-b")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_child_available")
    assert "lost its records" in refused.json()["error"]["message"]
    (warning,) = eventually(lambda: tree(at, keys).get("warnings"), "a warning in the tree")
    assert "records of used tokens and revocations are lost" in warning
    assert "hierarchy state confirm" in warning
    eventually(lambda: errors(caplog), "an error in the log")
    assert errors(caplog) == [f"records are missing: {warning}"], "once"
    assert b"hierarchy_records_incomplete 1.0" in httpx.get(f"{at.url}/metrics", headers=bearer(keys.admin)).content
    # Nothing new is issued, not even for a token that nobody used, and not after another restart.
    assert register(at, keys.token("site-c"), "site-c").status_code == 503
    cluster.stop(at)
    at = root(cluster, keys, "root", port=at.port)
    assert register(at, keys.token("site-c"), "site-c").status_code == 503
    confirmed = httpx.post(f"{at.url}/admin/confirm_state", headers=bearer(keys.admin)).json()
    assert confirmed == {"node": "root", "was_incomplete": True}
    assert register(at, keys.token("site-c"), "site-c").json()["credential"]
    assert "warnings" not in tree(at, keys)


def test_a_root_that_lost_its_state_waits_for_its_children_before_it_accepts_an_older_token(
    cluster: Cluster, keys: Keys
) -> None:
    at = root(cluster, keys, "root")
    token = keys.token("site-a")
    assert register(at, token, "site-a").status_code == 200
    at = lose_state(cluster, keys, at)
    refused = register(at, token, "site-a")
    assert refused.status_code == 503
    assert "without any record" in refused.json()["error"]["message"]
    assert register(at, keys.token("new"), "new").status_code == 200, "made after the loss, so nobody used it before"


def test_another_instance_gives_a_lost_state_back(
    cluster: Cluster, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    ports = free_port(), free_port()
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    one = root(cluster, keys, "root", port=ports[0], peers=(urls[1],))
    other = root(cluster, keys, "root-b", port=ports[1], peers=(urls[0],))
    joined = child(cluster, keys, "site-a", (one, other), join_token=keys.token_file("site-a"))
    eventually(partial(have_joined, joined), "the site to join both")
    gone = keys.token("site-b")
    register(one, gone, "site-b")
    revoke(one, keys, "site-b")
    eventually(lambda: store(other).is_revoked("site-b", 1.0), "the revocation to arrive")
    # The other began a moment later, so it has every record only since it has those of the first.
    eventually(lambda: store(other).began <= store(one).began, "the exchange to be complete", 20.0)
    one = lose_state(cluster, keys, one, peers=(urls[1],))
    eventually(lambda: is_registered(one, "site-a"), "the site to come back")
    eventually(lambda: store(one).is_revoked("site-b", 1.0), "the revocation to come back")
    eventually(lambda: not store(one).is_incomplete, "the other instance to say that this is all", 3.0)
    assert "warnings" not in tree(one, keys)
    assert register(one, gone, "site-b").status_code == 401
    assert errors(caplog) == []


def test_a_child_gives_a_root_that_lost_its_state_the_records_of_the_other(cluster: Cluster, keys: Keys) -> None:
    one, other = root(cluster, keys, "root"), root(cluster, keys, "root-b")
    carrier = child(cluster, keys, "carrier", (one, other), join_token=keys.token_file("carrier"))
    eventually(partial(have_joined, carrier), "the child to join both")
    revoke(one, keys, "site-b")
    eventually(lambda: store(other).is_revoked("site-b", 1.0), "the revocation to arrive")
    one = lose_state(cluster, keys, one)
    eventually(lambda: store(one).is_revoked("site-b", 1.0), "the revocation to come back")
    assert store(one).is_incomplete, "a child may withhold records"


def test_a_state_file_that_is_removed_while_the_root_runs_is_written_again(
    cluster: Cluster, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    at = root(cluster, keys, "root")
    revoke(at, keys, "site-b")
    file = keys.folder / "state" / "root" / "state.json"
    file.unlink()
    eventually(file.exists, "the file to be written again")
    assert TokenStore(file).is_revoked("site-b", 1.0)
    assert [record.message for record in caplog.records if "was removed" in record.message] == [
        f"{file}: was removed while this node runs; it is written again"
    ]


# two keys


def test_the_tree_key_of_two_roots_is_replaced_one_root_after_the_other(cluster: Cluster, keys: Keys) -> None:
    new = Keys(_folder(keys.folder / "new"))
    new_key = f"file:{new.folder / 'tree.key'}"
    old_key = f"file:{keys.folder / 'tree.key'}"
    phases: list[dict[str, Any]] = [
        {"key": old_key, "accepted_key": new_key},
        {"key": new_key, "accepted_key": old_key},
        {"key": new_key},
    ]
    roots = [root(cluster, keys, "root"), root(cluster, keys, "root-b")]
    joined = child(cluster, keys, "site-a", (roots[0], roots[1]), join_token=keys.token_file("site-a"))
    eventually(partial(have_joined, joined), "the site to join both")
    stolen = keys.token("site-b")
    Path(keys.folder / "site-a.token").unlink()
    for phase in phases:
        for number, name in enumerate(("root", "root-b")):
            at, port = roots[number], roots[number].port
            cluster.stop(at)
            eventually(lambda: not all(one.registered for one in joined.node.uplinks), "the site to notice")
            roots[number] = root(cluster, keys, name, port=port, **phase)
            eventually(partial(have_joined, joined), f"the site to be accepted by {name} with {phase}")
        for at in roots:
            page = httpx.get(f"{at.url}/metrics", headers=bearer(keys.admin)).text
            assert "hierarchy_children_with_accepted_key 0.0" in page
    assert register(roots[0], stolen, "site-b").status_code == 401, "the old key is no longer accepted"
    revoke(roots[0], keys, "site-b")
    eventually(lambda: store(roots[1]).is_revoked("site-b", 1.0), "records to be passed on with the new key", 5.0)


def _folder(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    return path

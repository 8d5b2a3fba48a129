"""Labels in trees of real nodes: a request that requires one never reaches what is not known to have it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from hierarchy.config.model_names import parse_targets
from hierarchy.config.models import EngineConfig, NodeConfig, RequestedLink
from hierarchy.runtime.files import write_private_file
from hierarchy.security.keys import create_key
from tests.cluster import CALM, QUICK, Cluster, Running, counters, wait_for_model
from tests.security.keyed import Keys, bearer
from tests.support import DEADLINE_S, eventually

EU, US = {"region": "eu"}, {"region": "us"}
IN_EU = {"x-hierarchy-require": "region=eu"}
Labels = dict[str, dict[str, str]]
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


def labelled(cluster: Cluster, name: str, labels: Labels, *engines: Running, **options: Any) -> Running:
    """Start a node whose configuration has these labels; its engines are NAME-1, NAME-2 and so on."""
    config = NodeConfig(
        name=name,
        listen=(("127.0.0.1", 0),),
        advertise="http://127.0.0.1:0",
        engines=tuple(
            EngineConfig(name=f"{name}-{number}", kind="simulated", url=engine.url)
            for number, engine in enumerate(engines, 1)
        ),
        labels=labels,
        **{"settings": CALM, "proxy": "none", **options},
    )
    return cluster.serve(config)


def ask(node: Running, headers: dict[str, str] = IN_EU, path: str = "/v1/completions", **body: Any) -> httpx.Response:
    content = {"model": "simulated", "prompt": "x", "max_tokens": 2, **body}
    return httpx.post(f"{node.url}{path}", json=content, headers=headers, timeout=DEADLINE_S)


def served(*engines: Running) -> int:
    return sum(counters(engine)["served"] for engine in engines)


def address(node: Running, headers: dict[str, str]) -> str:
    """What FastChat's controller returns: the URL for the next request; or a code of an error."""
    page = httpx.post(f"{node.url}/get_worker_address", json={"model": "simulated"}, headers=headers).json()
    found: str = page["error"]["code"] if "error" in page else page["address"]
    return found


def test_a_site_with_engines_of_both_kinds_serves_both_kinds_of_requests(cluster: Cluster) -> None:
    eu, us = cluster.engine(), cluster.engine()
    root = labelled(cluster, "root", {"mixed": {"region": "eu/us"}, "unknown": {}})
    mixed = labelled(cluster, "mixed", {"mixed-1": EU, "mixed-2": US}, eu, us, parents=(root.url,))
    unknown = labelled(cluster, "unknown", {"unknown-1": EU}, us, parents=(root.url,))
    wait_for_model(root.url, "simulated", 3)
    for number in range(1, 5):
        assert ask(root).headers["x-hierarchy-path"] == "mixed/mixed-1"
        assert ask(mixed).headers["x-hierarchy-path"] == "mixed-1"
        assert (served(eu), served(us)) == (2 * number, 0)
    assert ask(root, {"x-hierarchy-require": "region=us"}).headers["x-hierarchy-path"] == "mixed/mixed-2"
    assert ask(root, {}).status_code == 200
    # Who gets the address of a site calls it without what this node knows; and this node without the field.
    assert address(root, IN_EU) == "requirement_unmet"
    assert address(root, {}) in (mixed.url, unknown.url)
    page = httpx.get(f"{root.url}/route", params={"model": "simulated", "require": "region=eu"}).json()
    assert page["path"] == "mixed/mixed-1"
    reasons = {one["name"]: one["reason"] for level in page["levels"] for one in level["passed_over"]}
    assert reasons == {
        "unknown": "is not known to have region=eu",
        "mixed-2": "is not known to have region=eu, but region=us",
    }
    listed = httpx.get(f"{root.url}/v1/models", headers=IN_EU).json()["data"]
    assert [row["served_by"] for row in listed] == [["mixed/mixed-1", "mixed/mixed-2"]]


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/chat/completions", CHAT, "error"),
        ("/v1/responses", {"input": "x"}, "error"),
        ("/v1/messages", CHAT, "error"),
        ("/v1/embeddings", {"input": "x"}, "error"),
        ("/v1/messages/count_tokens", CHAT, "error"),
        ("/worker_generate_stream", {}, "text"),
        ("/worker_generate", {}, "text"),
        ("/worker_get_embeddings", {"input": ["x"]}, "text"),
        ("/count_token", {}, "text"),
        ("/model_details", {}, "text"),
        ("/get_worker_address", {}, "error"),
    ],
)
def test_every_path_refuses_what_nothing_allowed_can_serve(
    shared: tuple[Running, Running], path: str, body: dict[str, Any], where: str
) -> None:
    node, engine = shared
    response = ask(node, path=path, **body)
    assert response.status_code == (200 if where == "text" else 503)
    text = response.text.strip("\0")
    found = httpx.Response(200, text=text).json()[where]
    message = found if where == "text" else found["message"]
    assert "region=eu" in message
    assert served(engine) == 0


@pytest.fixture(scope="module")
def shared() -> Iterable[tuple[Running, Running]]:
    """A node whose only engine is known to be elsewhere."""
    with Cluster() as cluster:
        engine = cluster.engine()
        node = labelled(cluster, "root", {"root-1": US}, engine)
        wait_for_model(node.url, "simulated")
        yield node, engine


HEADS: list[tuple[bytes, int]] = [
    (b"X-HIERARCHY-REQUIRE: region=eu", 503),
    (b"x-hierarchy-require:region=eu", 503),
    (b"x-hierarchy-require: \t region=eu \t", 503),
    (b"x-hierarchy-require: region=us\r\nx-hierarchy-require: region=eu", 400),  # nothing can have both
    (b"x-hierarchy-require: region=us\r\nx-hierarchy-require: trust=own", 503),
    (b"x-hierarchy-require: region=us,trust=own", 503),
    (b"x-hierarchy-require: region=us, region=eu", 400),
    (b"x-hierarchy-require: region=us\r\nx-hierarchy-require:", 400),
    (b"x-hierarchy-require:", 400),
    (b"x-hierarchy-require: region=eu!", 400),  # as a parent says it
    (b"x-hierarchy-require: region=us!", 400),
    (b"x-hierarchy-require: region=eu/us", 400),
    (b"x-hierarchy-require: region=*", 400),
    (b"x-hierarchy-require: *=", 400),
    (b"x-hierarchy-require: region=\xe9u", 400),
    (b"x-hierarchy-require: region=eu\r\nconnection: x-hierarchy-require", 503),
    (b"x-hierarchy-require: region=eu\r\nx-hierarchy-auth: guess\r\nx-hierarchy-seq: 7", 503),
    (b"x-hierarchy-require: region=eu!\r\nx-hierarchy-auth: guess\r\nx-hierarchy-seq: 7", 400),
    (
        b"x-hierarchy-auth: \r\nx-hierarchy-model: simulated\r\nx-hierarchy-require: region=eu\r\nx-hierarchy-hops: 1",
        503,
    ),
    (b"x-hierarchy-require: region=eu\r\nexpect: 100-continue", 503),
    (b"x-hierarchy-require: region=eu\r\n ,trust=own", 400),  # a folded line
]


@pytest.mark.parametrize(("lines", "status"), HEADS)
def test_no_head_leads_around_what_it_requires(shared: tuple[Running, Running], lines: bytes, status: int) -> None:
    node, engine = shared
    statuses = [_status(node, lines), _status(node, lines)]  # the second time from the cache
    assert statuses == [status, status]
    assert served(engine) == 0


def _status(node: Running, lines: bytes) -> int:
    body = b'{"model":"simulated","prompt":"x"}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n%b\r\ncontent-length: %d\r\n\r\n" % (lines, len(body))
    with socket.create_connection(("127.0.0.1", node.port), DEADLINE_S) as sock:
        sock.sendall(head + body)
        data = b""
        while b"\r\n\r\n" not in data:
            part = sock.recv(65536)
            assert part, data
            data = (data + part).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return int(data.split(b" ", 2)[1])


@pytest.mark.parametrize("link", ["direct", "reverse"])
@pytest.mark.parametrize("liar", ["leaf", "middle"])
def test_no_level_gains_by_a_lie(cluster: Cluster, liar: str, link: RequestedLink) -> None:
    """The one engine is in the US, and one of the nodes above it says otherwise."""
    engine = cluster.engine()
    above, below = (
        ({"middle": US}, {"leaf": EU}) if liar == "middle" else ({"middle": {"region": "eu/us"}}, {"leaf": US})
    )
    root = labelled(cluster, "root", above)
    middle = labelled(cluster, "middle", below, parents=(root.url,), link=link)
    labelled(cluster, "leaf", {"leaf-1": EU}, engine, parents=(middle.url,), link=link)
    wait_for_model(root.url, "simulated")
    for _ in range(3):
        refused = ask(root)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "requirement_unmet")
    assert served(engine) == 0
    assert ask(root, {}).status_code == 200
    parent = root if liar == "middle" else middle
    assert parent.node.registry.labels_ignored > 0
    assert ask(middle).status_code == (200 if liar == "middle" else 503)  # its own configuration decides there


def test_a_retry_never_leaves_what_is_required(cluster: Cluster) -> None:
    broken = cluster.engine()
    us = cluster.engine()
    root = labelled(cluster, "root", {"root-1": EU, "root-2": US}, broken, us)
    wait_for_model(root.url, "simulated", 2)
    httpx.post(f"{broken.url}/simulated/faults", json={"on": "generate", "status": 503, "count": 50})
    for path in ("/v1/completions", "/v1/chat/completions"):
        refused = ask(root, IN_EU, path, **CHAT)
        assert refused.status_code == 503
        assert "region=eu" in refused.json()["error"]["message"]
    cluster.stop(broken)
    refused = ask(root)
    assert (refused.status_code, served(us)) == (503, 0)
    assert "region=eu" in refused.json()["error"]["message"]
    assert ask(root, {}).status_code == 200


def test_a_child_that_loses_a_label_while_it_is_dialled_gets_nothing(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = labelled(cluster, "root", {"root-1": EU}, engine)
    wait_for_model(root.url, "simulated")
    registry, lane = root.node.registry, root.node.lane

    async def prepare() -> None:
        pool = lane.pool(registry.children["root-1"])
        connect = pool.connect

        async def connect_late(*args: Any, **options: Any) -> Any:
            upstream = await connect(*args, **options)
            registry.declare_labels({"root-1": US})
            return upstream

        pool.connect = connect_late

    cluster.call(prepare())
    refused = ask(root)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "requirement_unmet")
    assert served(engine) == 0
    assert ask(root, {}).status_code == 200


def test_an_alias_stands_for_a_model_that_is_allowed(cluster: Cluster) -> None:
    near, far = cluster.engine(models=("small",)), cluster.engine(models=("large",))
    config_aliases = {"best": parse_targets(["large", "small"])}
    root = labelled(cluster, "root", {"root-1": EU, "root-2": US}, near, far, aliases=config_aliases)
    wait_for_model(root.url, "best")
    assert ask(root, model="best").headers["x-hierarchy-path"] == "root-1"
    assert ask(root, {}, model="best").headers["x-hierarchy-path"] == "root-2"
    assert served(far) == 1
    listed = httpx.get(f"{root.url}/v1/models", headers=IN_EU).json()["data"]
    assert [(row["id"], row.get("alias_of")) for row in listed] == [("small", None), ("best", ["small"])]
    assert httpx.get(f"{root.url}/v1/models/large", headers=IN_EU).status_code == 503
    assert httpx.post(f"{root.url}/list_models", headers=IN_EU).json() == {"models": ["small"]}
    assert httpx.post(f"{root.url}/worker_get_status", headers=IN_EU).json()["model_names"] == ["small"]


def test_a_key_decides_and_a_client_may_only_narrow_that(cluster: Cluster, tmp_path: Any) -> None:
    keys = Keys(tmp_path)
    eu, own, us = cluster.engine(), cluster.engine(), cluster.engine()
    labels = {"root-1": EU, "root-2": {**EU, "trust": "own"}, "root-3": US}
    root = labelled(cluster, "root", labels, eu, own, us, settings=keys.settings(without=("key",)))
    local = create_key(keys.folder / "api.yaml", "bob", None, require=EU)
    eventually(lambda: ask(root, bearer(local)).status_code == 200, "the key to be known")
    for _ in range(6):
        assert ask(root, bearer(local)).status_code == 200
        narrow = ask(root, {**bearer(local), "x-hierarchy-require": "trust=own"})
        assert narrow.headers["x-hierarchy-path"] == "root-2"
    assert served(us) == 0
    wider = ask(root, {**bearer(local), "x-hierarchy-require": "region=us"})
    assert (wider.status_code, wider.json()["error"]["code"]) == (403, "label_not_allowed")
    # A key without labels may require some.
    assert (
        ask(root, {**bearer(keys.client), "x-hierarchy-require": "region=us"}).headers["x-hierarchy-path"] == "root-3"
    )
    # FastChat's clients call the engine themselves.
    for _ in range(4):
        assert address(root, bearer(local)) in (eu.url, own.url)
        assert address(root, {**bearer(local), "x-hierarchy-require": "trust=own"}) == own.url
    # What the file says counts from then on.
    text = (keys.folder / "api.yaml").read_text("utf-8")
    write_private_file(keys.folder / "api.yaml", text.replace("region: eu", "region: us"))
    eventually(lambda: ask(root, bearer(local)).headers["x-hierarchy-path"] == "root-3", "the key to be read again")


def test_a_token_binds_labels_and_the_next_token_replaces_them(cluster: Cluster, tmp_path: Any) -> None:
    keys = Keys(tmp_path)
    engine = cluster.engine()
    root = cluster.node("root", settings=keys.settings())

    def join(**token: Any) -> Running:
        settings = keys.settings(join_token=keys.token_file("site", **token), state_dir=str(tmp_path / str(token)))
        return labelled(cluster, "site", {"site-1": EU}, engine, parents=(root.url,), settings=settings)

    client = {**bearer(keys.client), **IN_EU}
    site = join(labels=EU)
    eventually(lambda: ask(root, client).status_code == 200, "the site to join")
    before = served(engine)
    cluster.stop(site)
    site = join()
    eventually(lambda: ask(root, bearer(keys.client)).status_code == 200, "the site to come back")
    assert ask(root, client).status_code == 503
    assert served(engine) == before + 1
    # Whoever else knows of the site is asked in vain, too: it does not believe what it is not told by its parent.
    assert ask(site, {**client, "x-hierarchy-auth": "guess", "x-hierarchy-seq": "1"}).status_code == 200
    cluster.stop(site)
    join(labels=US)
    eventually(lambda: ask(root, bearer(keys.client)).status_code == 200, "the site to come back")
    assert ask(root, client).status_code == 503


def test_what_a_site_says_of_its_models_follows_what_it_has(cluster: Cluster) -> None:
    eu, us = cluster.engine(), cluster.engine(models=("simulated", "other"))
    root = labelled(cluster, "root", {"site": {"region": "eu/us"}}, settings=QUICK)
    site = labelled(cluster, "site", {"site-1": EU, "site-2": US}, eu, us, parents=(root.url,), settings=QUICK)
    wait_for_model(root.url, "other")
    wait_for_model(root.url, "simulated", 2)
    assert ask(root, model="other").json()["error"]["code"] == "requirement_unmet"
    assert ask(root).status_code == 200
    child = root.node.registry.children["site"]
    assert child.labels.rows("other") == ((("region", "us"),),)
    engines = dict(site.node.registry.children)
    cluster.call(_relabel(site, {"site-1": US, "site-2": US}))
    assert site.node.registry.children == engines, "no engine starts again"
    eventually(lambda: child.labels.rows("simulated") == ((("region", "us"),),), "the report of the new labels")
    assert ask(root).status_code == 503
    assert served(us) == 0


async def _relabel(node: Running, labels: Labels) -> None:
    await node.node.apply(node.node.config.model_copy(update={"labels": labels}))


def test_what_a_site_gives_back_goes_to_no_other_site_but_names_the_label(cluster: Cluster) -> None:
    broken, us = cluster.engine(), cluster.engine()
    root = labelled(cluster, "root", {"near": EU, "far": US})
    labelled(cluster, "near", {"near-1": {}}, broken, parents=(root.url,))
    labelled(cluster, "far", {"far-1": US}, us, parents=(root.url,))
    wait_for_model(root.url, "simulated", 2)
    assert ask(root).headers["x-hierarchy-path"] == "near/near-1"  # the root knows that all of the site is there
    httpx.post(f"{broken.url}/simulated/faults", json={"on": "generate", "status": 503, "count": 50})
    refused = ask(root)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "requirement_unmet")
    assert "region=eu" in refused.json()["error"]["message"]
    assert served(us) == 0

"""Trees with reverse links: real nodes on real sockets, and connections that break between them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest

from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import Settings
from hierarchy.relay.upstream.links import LEAST_IDLE
from tests.certificates import Authority
from tests.clocks import SkewedClock
from tests.cluster import QUICK, Cluster, Running, chat, counters, models_at, wait_for_model
from tests.relay.proxy import Proxy
from tests.relay.raw import MODEL, SSE_HEAD, chunk
from tests.relay.support import Engine
from tests.support import DEADLINE_S, eventually, free_port
from tests.whole.links import LossyRelay, pool_of, reserve_of, wait_for_links

REQUEST = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 8}


def over_tls(files: dict[str, str]) -> Settings:
    """Settings with these certificates."""
    return QUICK.model_copy(update={"tls": TlsSpec.model_validate(files)})


def linked(cluster: Cluster, root: str, engine: Running, **options: object) -> Running:
    """A site that dials its parent, and is above an engine."""
    return cluster.node("site", parents=(root,), engines=(engine.url,), link="reverse", **options)  # type: ignore[arg-type]


def make_undialable(parent: Running, child: str = "site") -> None:
    """Change the child's URL to one where nothing listens, so that dialling it fails."""
    parent.node.registry.children[child].move_to("http://127.0.0.1:9")


def test_requests_use_the_connections_that_the_child_dialled(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    site = linked(cluster, root.url, engine)
    wait_for_model(root.url, "simulated")
    make_undialable(root)
    direct = httpx.post(f"{engine.url}/v1/chat/completions", json=REQUEST).content
    response = httpx.post(f"{root.url}/v1/chat/completions", json=REQUEST)
    assert response.status_code == 200
    assert response.headers["x-hierarchy-path"] == "site/site-1"
    assert response.content.count(b"data: ") == direct.count(b"data: ")
    assert response.content.endswith(b"data: [DONE]\n\n")
    entry = httpx.get(f"{root.url}/tree").json()["children"]["site"]
    assert (entry["link"], entry["children"]["site-1"]["link"]) == ("reverse", "direct")
    pool = wait_for_links(root)
    assert len(reserve_of(site).links) == len(pool.links)
    samples = {(name, labels): value for name, labels, value in root.node.gauges()}
    assert samples["hierarchy_links", ("site", "idle")] >= LEAST_IDLE


def test_two_levels_of_links_pass_a_cancel_on_to_the_engine(cluster: Cluster) -> None:
    engine, root = cluster.engine(decode_tokens_per_s=1.0), cluster.node("root")
    site = cluster.node("site", parents=(root.url,), link="reverse")
    cluster.node("rack", parents=(site.url,), engines=(engine.url,), link="reverse")
    wait_for_model(root.url, "simulated")
    with httpx.stream("POST", f"{root.url}/v1/chat/completions", json={**REQUEST, "max_tokens": 1000}) as response:
        assert response.headers["x-hierarchy-path"] == "site/rack/rack-1"
        eventually(lambda: counters(engine)["running"] == 1, "the engine to be busy")
    eventually(lambda: counters(engine)["running"] == 0, "the engine to be free")
    eventually(
        lambda: all(not child.in_flight for one in (root, site) for child in one.node.registry),
        "the leases to end",
    )


def test_a_child_of_two_parents_has_links_to_each(cluster: Cluster) -> None:
    engine, one, two = cluster.engine(), cluster.node("one"), cluster.node("two")
    site = cluster.node("site", parents=(one.url, two.url), engines=(engine.url,), link="reverse")
    for parent in (one, two):
        wait_for_links(parent)
        wait_for_model(parent.url, "simulated")
        make_undialable(parent)
        assert chat(parent.url).status_code == 200
    cluster.stop(one)
    assert chat(two.url).status_code == 200
    assert [reserve.open for reserve in site.node.reserves] != [False, False]


def test_auto_is_direct_if_the_parent_can_dial_and_otherwise_reverse(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    near = cluster.node("near", parents=(root.url,), engines=(engine.url,), link="auto")
    other = cluster.node("other")
    far = cluster.node("far", parents=(root.url,), engines=(engine.url,), link="auto", advertise=other.url)
    unused = f"http://127.0.0.1:{free_port()}"
    cluster.node("farther", parents=(root.url,), engines=(engine.url,), link="auto", advertise=unused)
    wait_for_model(root.url, "simulated", 3)
    links = {name: entry["link"] for name, entry in httpx.get(f"{root.url}/tree").json()["children"].items()}
    assert links == {"near": "direct", "far": "reverse", "farther": "reverse"}
    assert not reserve_of(near).links
    wait_for_links(root, "far")
    wait_for_links(root, "farther")
    assert {chat(root.url).status_code for _ in range(6)} == {200}
    assert reserve_of(far).open


def test_get_worker_address_returns_the_nodes_own_for_a_child_that_cannot_be_dialled(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    linked(cluster, root.url, engine)
    wait_for_model(root.url, "simulated")
    response = httpx.post(f"{root.url}/get_worker_address", json={"model": "simulated"})
    assert response.json() == {"address": root.url}


def test_each_instance_of_a_replicated_site_has_links_of_its_own(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    sites = [linked(cluster, root.url, engine, replica_of="site") for _ in range(2)]
    for name in ("site", "site~2"):
        wait_for_links(root, name)
        make_undialable(root, name)
        assert httpx.get(f"{root.url}/admin/status", params={"path": f"{name}/site-1"}).status_code == 200
    first = root.node.registry.children["site"].instance
    cluster.stop(next(site for site in sites if site.node.identity.instance == first))
    pool = wait_for_links(root, "site~2")
    cluster.loop.call_soon_threadsafe(pool.close)
    wait_for_links(root, "site~2")


def test_admin_commands_use_the_links(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    site = cluster.node("site", parents=(root.url,), link="reverse")
    rack = cluster.node("rack", parents=(site.url,), engines=(engine.url,), link="reverse")
    wait_for_model(root.url, "simulated")
    make_undialable(root)
    for path, holder in (("site/rack/rack-1", rack), ("site/rack", site), ("site", root)):
        response = httpx.post(f"{root.url}/admin/drain", json={"path": path, "force": True})
        name = path.rpartition("/")[2]
        page = response.json()
        assert (page["node"], page["child"], page["draining"]) == (holder.node.identity.name, name, True)
        assert holder.node.registry.children[name].drain is not None
        eventually(lambda: not models_at(root.url), "the drain to be reported to the root")
        assert chat(root.url).status_code == 503
        assert httpx.post(f"{root.url}/admin/undrain", json={"path": path}).status_code == 200
        wait_for_model(root.url, "simulated")
    status = httpx.get(f"{root.url}/admin/status", params={"path": "site/rack"}).json()
    assert (status["name"], status["children"]["rack-1"]["kind"]) == ("rack", "simulated")
    missing = httpx.get(f"{root.url}/admin/status", params={"path": "site/cellar"})
    assert missing.status_code == 404
    assert "no child 'cellar' at site; children here: rack" in missing.json()["error"]["message"]


# -- bursts --------------------------------------------------------------------------------------------------


def test_a_burst_on_a_cold_link_is_served_and_surplus_links_are_closed(cluster: Cluster) -> None:
    root_clock = SkewedClock()
    engine, root = cluster.engine(slots=1000, decode_tokens_per_s=5.0), cluster.node("root", clock=root_clock)
    linked(cluster, root.url, engine)
    wait_for_model(root.url, "simulated")
    pool = wait_for_links(root, count=1)
    count = 100

    async def burst() -> list[int]:
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(limits=limits, timeout=DEADLINE_S) as client:
            body = {**REQUEST, "stream": False, "max_tokens": 3}
            requests = [client.post(f"{root.url}/v1/chat/completions", json=body) for _ in range(count)]
            return [response.status_code for response in await asyncio.gather(*requests)]

    assert asyncio.run(burst()) == [200] * count
    counts = root.node.metrics.of_share("simulated", "openai", "site")
    assert counts.outcomes == {"ok": count}  # no attempt failed either
    assert len(pool.links) >= 20
    root_clock.skew += 1000.0  # the links are idle for long
    eventually(lambda: len(pool.links) <= LEAST_IDLE + 2, "the surplus to be closed")
    wait_for_model(root.url, "simulated")  # the site may have expired after so long a silence
    assert chat(root.url).status_code == 200


# -- restarts ----------------------------------------------------------------------------------------------------


async def streamed(url: str, on_first_bytes: Callable[[], object]) -> bytes:
    """The content of a stream. Calls `on_first_bytes()` when it starts."""
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json={**REQUEST, "max_tokens": 20}) as response,
    ):
        parts: list[bytes] = []
        async for part in response.aiter_raw():
            if not parts:
                on_first_bytes()
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize("end", ["child", "parent"])
def test_sigterm_of_either_end_finishes_running_streams(cluster: Cluster, end: str) -> None:
    engine, root = cluster.engine(decode_tokens_per_s=20.0), cluster.node("root")
    site = linked(cluster, root.url, engine)
    wait_for_model(root.url, "simulated")
    ending = site if end == "child" else root
    content = asyncio.run(streamed(root.url, lambda: setattr(ending.server, "should_exit", True)))
    assert content.endswith(b"data: [DONE]\n\n")
    eventually(ending.task.done, "the node to end after its stream")
    eventually(lambda: not reserve_of(site).links, "the links to be closed")


def test_a_restarted_parent_is_dialled_again(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    site = linked(cluster, root.url, engine)
    wait_for_links(root)
    port = root.node.config.listen[0][1]
    cluster.stop(root)
    eventually(lambda: not reserve_of(site).links, "the links to be closed")
    restarted = cluster.node("root", port=port)
    wait_for_model(restarted.url, "simulated")
    assert chat(restarted.url).status_code == 200
    wait_for_links(restarted)


def test_a_child_registers_again_when_its_links_are_closed(cluster: Cluster) -> None:
    engine = cluster.engine()
    root = cluster.node("root")
    site = cluster.node(
        "site",
        parents=(root.url,),
        engines=(engine.url,),
        link="reverse",
        settings=Settings(report_interval_s=60.0, probe_interval_s=0.1),  # no report would reveal it soon
    )
    wait_for_links(root)
    root.node.registry.remove("site")
    cluster.call(sweep(root))
    eventually(lambda: not reserve_of(site).links, "the pool to be closed")
    wait_for_model(root.url, "simulated")
    assert chat(root.url).status_code == 200


def test_a_child_with_a_wrong_secret_gets_no_link_and_registers_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    site = linked(cluster, root.url, engine)
    pool = wait_for_links(root)
    root.node.registry.children["site"].secret = b"another"
    cluster.loop.call_soon_threadsafe(pool.renew)
    eventually(lambda: "it answered 403" in caplog.text, "the refusal")
    secret = site.node.uplinks[0].secret
    eventually(lambda: root.node.registry.children["site"].secret == secret, "the site to register again")
    eventually(lambda: chat(root.url).status_code == 200, "links again")


async def sweep(node: Running) -> None:
    """Apply the timeouts of a node now."""
    node.node.lane.sweep()
    node.node.clients.sweep(node.node.lane.clock())


# -- broken connections ---------------------------------------------------------------------------------------------


def test_both_ends_detect_a_black_hole_and_new_links_are_dialled(cluster: Cluster) -> None:
    root_clock, site_clock = SkewedClock(), SkewedClock()
    engine, root = cluster.engine(), cluster.node("root", clock=root_clock)
    relay = LossyRelay(cluster, root.url)
    site = linked(cluster, relay.url, engine, clock=site_clock)
    pool = wait_for_links(root)
    lost_above, lost_below = set(pool.links), set(reserve_of(site).links)
    relay.swallow()  # open connections; new ones work, as behind a restarted NAT
    assert lost_above
    assert lost_below
    for _ in range(24):  # twelve seconds, in steps of half a second
        for clock, running in ((root_clock, root), (site_clock, site)):
            clock.skew += 0.5
            cluster.call(sweep(running))
    assert not (lost_above & pool.links)
    eventually(lambda: not (lost_below & reserve_of(site).links), "the child to drop its ends")
    wait_for_links(root)
    wait_for_model(root.url, "simulated")
    assert chat(root.url).status_code == 200
    relay.close()


def test_a_stream_cut_in_the_middle_of_a_link_ends_in_an_error_event_and_frees_the_engine(cluster: Cluster) -> None:
    engine, root = cluster.engine(decode_tokens_per_s=10.0), cluster.node("root")
    relay = LossyRelay(cluster, root.url)
    linked(cluster, relay.url, engine)
    wait_for_model(root.url, "simulated")
    content = asyncio.run(streamed(root.url, relay.cut))
    assert b"event: error\ndata: " in content
    assert b"[DONE]" not in content
    eventually(lambda: counters(engine)["running"] == 0, "the engine to be free")
    eventually(lambda: chat(root.url).status_code == 200, "a new link")
    relay.close()


# -- proxies and TLS -----------------------------------------------------------------------------------------


def test_links_and_registrations_go_through_a_proxy(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    with Proxy(cluster, auth="joe:secret") as proxy:
        linked(cluster, root.url, engine, proxy=proxy.url)
        wait_for_links(root)
        wait_for_model(root.url, "simulated")
        assert chat(root.url).status_code == 200
        assert {line.split()[0] for line in proxy.asked} == {"CONNECT", "POST"}
        authority = root.url.removeprefix("http://")
        assert f"CONNECT {authority} HTTP/1.1" in proxy.asked


def test_the_environments_proxy_is_used_unless_no_proxy_excludes_the_parent(cluster: Cluster) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    with Proxy(cluster) as proxy:
        environ = {"http_proxy": proxy.url, "no_proxy": "elsewhere"}
        site = linked(cluster, root.url, engine, proxy="env", environ=environ)
        wait_for_links(root)
        count = len(proxy.asked)
        assert count > LEAST_IDLE
        cluster.stop(site)
        linked(cluster, root.url, engine, proxy="env", environ={**environ, "no_proxy": "127.0.0.1"})
        wait_for_links(root)
        assert not [line for line in proxy.asked[count:] if line.startswith("CONNECT")]


def test_a_proxy_that_refuses_is_named_in_the_log(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    engine, root = cluster.engine(), cluster.node("root")
    with Proxy(cluster, refuse=True) as proxy:
        linked(cluster, root.url, engine, proxy=proxy.url)
        eventually(lambda: "answered CONNECT with 'HTTP/1.1 403 Forbidden'" in caplog.text, "the warning")


@pytest.mark.parametrize("through_proxy", [False, True])
def test_links_over_tls(cluster: Cluster, authority: Authority, through_proxy: bool) -> None:
    engine = cluster.engine(decode_tokens_per_s=100.0)
    root = cluster.node("root", settings=over_tls(authority.issue("root")))
    url = root.url
    with Proxy(cluster) as proxy:
        option = {"proxy": proxy.url} if through_proxy else {}
        site = linked(cluster, url, engine, settings=over_tls({"ca": str(authority.ca_file)}), **option)
        wait_for_links(root)
        with authority.client() as http:
            eventually(lambda: root.node.ready, "the model")
            response = http.post(f"{url}/v1/chat/completions", json=REQUEST)
            assert response.content.endswith(b"data: [DONE]\n\n")
            assert response.headers["x-hierarchy-path"] == "site/site-1"
            big = {**REQUEST, "messages": [{"role": "user", "content": "x" * 2_000_000}]}
            assert http.post(f"{url}/v1/chat/completions", json=big).content.endswith(b"data: [DONE]\n\n")
            with http.stream("POST", f"{url}/v1/chat/completions", json={**REQUEST, "max_tokens": 1000}):
                eventually(lambda: counters(engine)["running"] == 1, "the engine to be busy")
            eventually(lambda: counters(engine)["running"] == 0, "the cancel to reach the engine")
        assert bool(proxy.asked) == through_proxy
        cluster.stop(site)


@pytest.mark.parametrize("secure", [False, True])
def test_a_client_that_does_not_read_pauses_the_engine_through_a_link(
    cluster: Cluster, authority: Authority, secure: bool
) -> None:
    size = 30_000_000  # more than the kernel buffers for three connections
    engine = Engine(cast(Any, None), otherwise=(SSE_HEAD, chunk(b"x" * size), chunk(b"")))
    cluster.call(engine.start())
    root = cluster.node("root", settings=over_tls(authority.issue("root")) if secure else QUICK)
    url, trusting = root.url, over_tls({"ca": str(authority.ca_file)})
    cluster.node("site", parents=(url,), engines=(engine.url,), kind="openai", link="reverse", settings=trusting)
    pool = wait_for_links(root)
    eventually(lambda: root.node.ready, "the model")
    with (
        authority.client() as http,
        http.stream("POST", f"{url}/v1/chat/completions", json={**REQUEST, "model": MODEL}) as response,
    ):
        eventually(lambda: any(link._reading.paused for link in pool.links), "the link to be paused")
        waiting = [link.transport.get_write_buffer_size() for link in root.node.clients]
        assert max(waiting) < 1_000_000
        assert len(response.read()) == size
    eventually(lambda: len(pool.idle) == len(pool.links), "the link to be idle again")
    assert not any(link._reading.paused for link in pool.links)
    cluster.call(engine.stop())


# -- kill -9 -------------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node in a separate process, without the environment's proxy settings."""
    argv = [sys.executable, "-m", "hierarchy", "serve", "--host", "127.0.0.1", *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, env=environ) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def test_a_killed_parent_frees_the_engine_and_is_dialled_again(cluster: Cluster) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    engine = cluster.engine(decode_tokens_per_s=10.0)
    site = linked(cluster, url, engine)
    with process("--node", "root", "--port", str(port)) as root:
        eventually(lambda: site.node.reserves and len(reserve_of(site).links) >= LEAST_IDLE, "the links", 20)
        wait_for_model(url, "simulated")
        with pytest.raises(httpx.HTTPError):
            asyncio.run(streamed(url, lambda: os.kill(root.pid, signal.SIGKILL)))
    eventually(lambda: counters(engine)["running"] == 0, "the engine to be free")
    eventually(lambda: not reserve_of(site).links, "the links to be closed")
    with process("--node", "root", "--port", str(port)):
        eventually(lambda: len(reserve_of(site).links) >= LEAST_IDLE, "links to the next root", 20)
        wait_for_model(url, "simulated")
        assert chat(url).status_code == 200


def test_streams_of_a_killed_child_end_with_an_error_and_its_links_are_closed(cluster: Cluster) -> None:
    engine, root = cluster.engine(decode_tokens_per_s=10.0), cluster.node("root")
    options = ("--node", "site", "--parent", root.url, "--link", "reverse", "--engine", f"simulated={engine.url}")
    with process(*options, "--port", str(free_port())) as site:
        eventually(lambda: root.node.ready, "the site", 20)
        pool = pool_of(root)
        content = asyncio.run(streamed(root.url, lambda: os.kill(site.pid, signal.SIGKILL)))
    assert b"event: error\ndata: " in content
    assert b"[DONE]" not in content
    eventually(lambda: not pool.links, "the links to be closed")
    assert chat(root.url).status_code in (502, 503)

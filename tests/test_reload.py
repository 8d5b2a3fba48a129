"""A configuration that changes while its node runs: applied completely or not at all, without effect on streams."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from hierarchy.cli.run_node import from_file
from hierarchy.reload import Reloader
from tests.cluster import Cluster, Running, chat, models_at, wait_for_model
from tests.security.keyed import Keys
from tests.support import eventually

CHECK_INTERVAL_S = 0.05
TREE = """\
version: 1
defaults: {{probe_interval_s: 0.1, hold_s: 0, dispatch: {dispatch}}}
nodes:
  root: {{listen: "127.0.0.1:0"}}
engines:
"""


PREFER = """\
version: 1
defaults: {{probe_interval_s: 0.1, hold_s: 0}}
nodes:
  root: {{listen: "127.0.0.1:0", prefer: {prefer}, spill_after_s: {spill}}}
engines:
  a: {{parent: root, kind: simulated, url: "{a}"}}
  b: {{parent: root, kind: simulated, url: "{b}"}}
"""


class Bench:
    """A node whose configuration file the test writes."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.path = folder / "tree.yaml"
        self.a, self.b = cluster.engine(models=("a",)), cluster.engine(models=("b",), decode_tokens_per_s=20.0)
        self.write(a=self.a, b=self.b)
        config = from_file(self.path, "root")
        self.running = cluster.serve(config)
        read = partial(from_file, self.path, "root")
        self.reloader = Reloader(self.running.node, self.path, read, config, check_interval_s=CHECK_INTERVAL_S)
        self.url = self.running.url
        wait_for_model(self.url, "a")
        wait_for_model(self.url, "b")

    def write(self, dispatch: str = "shortest_queue", *, path: Path | None = None, **engines: Running) -> None:
        lines = [f'  {name}: {{parent: root, kind: simulated, url: "{at.url}"}}\n' for name, at in engines.items()]
        (path or self.path).write_text(TREE.format(dispatch=dispatch) + "".join(lines))

    def reload(self) -> bool:
        return bool(self.cluster.call(self.reloader.reload()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Cluster() as cluster:
        yield Bench(cluster, tmp_path)


def test_only_what_changed_is_applied(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept = bench.running.node.registry.children["a"]
    c = bench.cluster.engine(models=("c",))
    bench.write("p2c", a=bench.a, c=c)
    assert bench.reload()
    wait_for_model(bench.url, "c")
    assert set(models_at(bench.url)) == {"a", "c"}
    assert bench.running.node.registry.children["a"] is kept
    assert bench.running.node.settings.dispatch == bench.running.node.lane.settings.dispatch == "p2c"
    assert "settings, engine b removed, engine c added" in caplog.text
    assert chat(bench.url, "b").status_code == 503  # another node may have it in a moment


def test_a_stream_continues_after_its_engine_was_removed(bench: Bench) -> None:
    body = {"model": "b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "stream": True}
    with httpx.stream("POST", f"{bench.url}/v1/chat/completions", json=body) as response:
        parts = response.iter_raw()
        first = next(parts)
        bench.write(a=bench.a)
        assert bench.reload()
        assert (first + b"".join(parts)).endswith(b"data: [DONE]\n\n")
    assert set(models_at(bench.url)) == {"a"}


def test_another_key_for_an_engine_is_used_though_the_configuration_is_the_same(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = tmp_path / "key"
    key.write_text("first")
    key.chmod(0o600)
    text = TREE.format(dispatch="p2c")
    bench.path.write_text(
        f'{text}  a: {{parent: root, kind: simulated, url: "{bench.a.url}", api_key: "file:{key}"}}\n'
    )
    assert bench.reload()
    children = bench.running.node.registry.children
    assert children["a"].credential == b"authorization: Bearer first\r\n"
    key.write_text("second")
    assert bench.reload()
    assert children["a"].credential == b"authorization: Bearer second\r\n"
    assert f"{bench.path} was read again: engine a changed" in caplog.messages
    kept = children["a"]
    assert bench.reload()
    assert children["a"] is kept


def test_a_replica_that_is_added_to_the_file_is_told_what_this_node_knows(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with Cluster() as cluster:
        one = cluster.serve(keys.config().model_copy(update={"replica_of": "root"}))
        two = cluster.serve(keys.config("root-b").model_copy(update={"replica_of": "root"}))
        records = [at.node.access.registration_policy.records for at in (one, two)]
        assert records[0] is not None
        assert records[1] is not None
        records[0].revoke("site-a")
        assert not records[1].store.is_revoked("site-a", 1.0)

        async def apply() -> list[str]:
            return await one.node.apply(one.node.config.model_copy(update={"replicas": (two.url,)}))

        assert cluster.call(apply()) == ["replicas"]
        store = records[1].store
        eventually(lambda: store.is_revoked("site-a", 1.0), "the exchange with the new replica")


BAD = {
    "not YAML": "nodes: [",
    "an unknown key": TREE.format(dispatch="p2c").replace("probe_interval_s", "probe_intervall_s"),
    "another address": TREE.format(dispatch="p2c").replace("127.0.0.1:0", "127.0.0.1:1")
    + "  a: {parent: root, kind: simulated}\n",
    "no engine": TREE.format(dispatch="p2c"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_file_leaves_the_old_one_in_force_and_logs_the_reason(
    bench: Bench, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.path.write_text(text)
    assert not bench.reload()
    assert "the old configuration stays in force: " in caplog.text
    assert "tree.yaml" in caplog.text
    assert chat(bench.url, "a").status_code == 200
    assert bench.running.node.settings.dispatch == "shortest_queue"
    bench.write("p2c", a=bench.a)
    assert bench.reload()


def test_what_needs_a_restart_is_named_as_in_the_file_but_never_a_proxy(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    good = bench.path.read_text()
    bench.path.write_text(good.replace("127.0.0.1:0", "127.0.0.1:1"))
    assert not bench.reload()
    assert "listen changed from 127.0.0.1:0 to 127.0.0.1:1; restart this node to apply it" in caplog.text
    bench.path.write_text(good.replace('0"}', '0", proxy: "http://u:secret@p:1"}'))
    assert not bench.reload()
    assert "proxy changed; restart this node to apply it" in caplog.text
    assert "secret" not in caplog.text


def test_a_deleted_file_changes_nothing(bench: Bench) -> None:
    bench.path.unlink()
    assert not bench.reload()
    assert chat(bench.url, "a").status_code == 200


@contextlib.contextmanager
def watching(bench: Bench) -> Iterator[None]:
    """Runs the reloader."""

    async def start() -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(bench.reloader.run())

    task = bench.cluster.call(start())
    yield
    bench.cluster.loop.call_soon_threadsafe(task.cancel)
    eventually(task.done)


def dispatch_becomes(bench: Bench, method: str) -> None:
    eventually(lambda: bench.running.node.settings.dispatch == method, "the file to be read")


def test_the_file_is_watched(bench: Bench) -> None:
    with watching(bench):
        bench.write("lottery", a=bench.a)
        dispatch_becomes(bench, "lottery")


def test_a_file_that_is_replaced_by_renaming_another_is_read_each_time(bench: Bench) -> None:
    new = bench.path.with_name("tree.yaml.new")
    with watching(bench):
        for method in ("lottery", "p2c", "round_robin"):
            bench.write(method, path=new, a=bench.a)
            new.replace(bench.path)
            dispatch_becomes(bench, method)


def test_a_symbolic_link_that_points_elsewhere_is_read(bench: Bench) -> None:
    target, link = bench.path.with_name("new.yaml"), bench.path.with_name("link")
    with watching(bench):
        bench.write("lottery", path=target, a=bench.a)
        link.symlink_to(target)
        link.replace(bench.path)
        dispatch_becomes(bench, "lottery")


def test_a_file_that_still_changes_is_not_read_yet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = iter([True, True, False, False, True, False])

    class Watch:
        def changed(self) -> bool:
            return next(checks)

    monkeypatch.setattr(bench.reloader, "_watch", Watch())
    reads: list[int] = []

    async def reload() -> bool:
        reads.append(len(list(checks)))
        raise asyncio.CancelledError

    monkeypatch.setattr(bench.reloader, "reload", reload)
    with pytest.raises(concurrent.futures.CancelledError):
        bench.cluster.call(bench.reloader.run())
    assert reads == [3]  # the first three checks


def test_a_reload_is_done_at_once_on_request(bench: Bench) -> None:
    bench.reloader._check_interval_s = 60.0
    with watching(bench):
        bench.write("p2c", a=bench.a)
        bench.cluster.loop.call_soon_threadsafe(bench.reloader.request)  # as SIGHUP does
        dispatch_becomes(bench, "p2c")


def test_parents_are_added_and_removed(bench: Bench) -> None:
    one, two = bench.cluster.node("one"), bench.cluster.node("two")
    node = bench.running.node

    async def apply(*parents: str) -> list[str]:
        return await node.apply(node.config.model_copy(update={"parents": parents}))

    assert bench.cluster.call(apply(one.url)) == [f"parent {one.url} added"]
    wait_for_model(one.url, "a")
    bench.cluster.call(apply(two.url))
    wait_for_model(two.url, "a")
    eventually(lambda: not models_at(one.url), "the first parent to know")


def test_tiers_are_changed_by_a_reload(cluster: Cluster, tmp_path: Path) -> None:
    a, b = cluster.engine(), cluster.engine()
    path = tmp_path / "tree.yaml"
    path.write_text(PREFER.format(prefer="[a]", spill=5, a=a.url, b=b.url))
    config, read = from_file(path, "root"), partial(from_file, path, "root")
    running = cluster.serve(config)
    wait_for_model(running.url, "simulated", 2)
    reloader = Reloader(running.node, path, read, config)
    assert {chat(running.url).headers["x-hierarchy-path"] for _ in range(4)} == {"a"}
    for prefer, spill, served in (("[b]", "5", "b"), ("[b, b]", "5", "b"), ("[b]", "-1", "b"), ("[a, b]", "0.5", "a")):
        path.write_text(PREFER.format(prefer=prefer, spill=spill, a=a.url, b=b.url))
        assert cluster.call(reloader.reload()) is (prefer != "[b, b]" and spill != "-1")
        assert {chat(running.url).headers["x-hierarchy-path"] for _ in range(4)} == {served}
    assert running.node.dispatch.tiers is not None
    assert running.node.dispatch.tiers.spill_after_s == 0.5
    path.write_text(PREFER.format(prefer="[]", spill=5, a=a.url, b=b.url))
    assert cluster.call(reloader.reload())
    assert running.node.dispatch.tiers is None

"""The policy `prefix` in trees of real nodes: a conversation stays with the engine that has read it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from hierarchy.config.model_names import parse_targets
from hierarchy.config.models import NodeConfig
from tests.cluster import CALM, Cluster, Running, wait_for_model
from tests.support import DEADLINE_S, eventually, running_app

PREFIX = CALM.model_copy(update={"dispatch": "prefix"})
SYSTEM = {"role": "system", "content": "You are a helpful assistant of a large company. " * 20}
Messages = list[dict[str, str]]


class Tree:
    """A root, and two sites with two engines each, which all choose by prefix."""

    def __init__(self, cluster: Cluster, roots: int = 1, **settings: Any) -> None:
        chosen = PREFIX.model_copy(update=settings)
        self.roots = [cluster.node("root", settings=chosen)]
        for number in range(1, roots):
            self.roots.append(cluster.node(f"root-{number}", replica_of="root", settings=chosen))
        if roots > 1:  # as for instances that are known by `replicas`
            for root in self.roots:
                root.node.config = root.node.config.model_copy(update={"replicas": ("http://127.0.0.1:1",)})
        self.root = self.roots[0]
        urls = tuple(root.url for root in self.roots)
        self.engines = [cluster.engine() for _ in range(4)]
        self.sites = [
            cluster.node(f"site-{n}", parents=urls, engines=(self.engines[2 * n].url, self.engines[2 * n + 1].url),
                         settings=chosen)
            for n in range(2)
        ]  # fmt: skip
        for root in self.roots:
            wait_for_model(root.url, "simulated", 4)


def chat(root: Running, messages: Messages, **fields: Any) -> str:
    """Send one request. Returns the path of the engine that served it."""
    headers = fields.pop("headers", {})
    body = {"model": "simulated", "messages": messages, "max_tokens": 1, **fields}
    response = httpx.post(f"{root.url}/v1/chat/completions", json=body, timeout=DEADLINE_S, headers=headers)
    assert response.status_code == 200, response.text
    return response.headers["x-hierarchy-path"]


def session(name: object) -> Messages:
    return [SYSTEM, {"role": "user", "content": f"This is session {name}. " * 60}]


def turn(messages: Messages) -> Messages:
    return [*messages, {"role": "assistant", "content": "yes " * 60}, {"role": "user", "content": "and then? " * 30}]


def sample(node: Running, name: str) -> float:
    """The sum of a metric's samples."""
    lines = httpx.get(f"{node.url}/metrics", timeout=DEADLINE_S).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def kept(paths: dict[object, list[str]]) -> float:
    """The part of the turns that went where the one before went. A probe in between may legally move some."""
    pairs = [pair for of_one in paths.values() for pair in pairwise(of_one)]
    return sum(before == after for before, after in pairs) / len(pairs)


def test_conversations_stay_with_their_engines_over_two_levels(cluster: Cluster) -> None:
    tree = Tree(cluster)
    paths: dict[object, list[str]] = {}
    talks = {number: session(number)[1:] for number in range(12)}
    for _ in range(4):
        for number, messages in talks.items():
            paths.setdefault(number, []).append(chat(tree.root, messages))
            talks[number] = turn(messages)
    assert kept(paths) >= 0.8, paths  # 0.25 by chance
    assert len({path for of_one in paths.values() for path in of_one}) == 4
    assert sample(tree.root, "hierarchy_prompt_bytes_matched_total") > 12 * 3 * 1000
    assert sample(tree.root, "hierarchy_prompt_bytes_pending") == 0
    assert sample(tree.sites[0], "hierarchy_prompt_bytes_matched_total") > 0
    assert sample(tree.root, "hierarchy_prefix_fields_ignored_total") == 0
    assert sample(tree.sites[0], "hierarchy_prefix_fields_ignored_total") == 0


def test_large_and_foreign_texts_stay_too(cluster: Cluster) -> None:
    tree = Tree(cluster)
    paths: dict[object, list[str]] = {}
    for start in ("ж" * 3000, "long " * 30_000):
        messages = [SYSTEM, {"role": "user", "content": start}]
        for _ in range(5):
            paths.setdefault(start, []).append(chat(tree.root, messages))
            messages = turn(messages)
    assert kept(paths) >= 0.7, paths


def test_several_entry_nodes_send_a_session_to_the_same_engine(cluster: Cluster) -> None:
    tree = Tree(cluster, roots=3)
    cluster.call(_settle(tree))
    paths: dict[object, list[str]] = {}
    for number in range(8):
        messages = session(number)
        for round_ in range(4):
            paths.setdefault(number, []).append(chat(tree.roots[round_ % 3], messages).partition("/")[0])
            messages = turn(messages)
    assert kept(paths) >= 0.8, paths  # 0.5 by chance


async def _settle(tree: Tree) -> None:
    for root in tree.roots:
        root.node._keep_prefixes()


def test_all_entries_of_a_tree_take_fingerprints_with_the_key_of_the_topmost_node(cluster: Cluster) -> None:
    settings = PREFIX.model_copy(update={"report_interval_s": 0.4})  # the key goes down with the answers to reports
    root = cluster.node("root", settings=settings)
    site = cluster.node("site", parents=(root.url,), settings=settings)
    rack = cluster.node("rack", parents=(site.url,), settings=settings)
    nodes = [root, site, rack]
    for node, key in zip(nodes, ("", "bb", "cc"), strict=True):
        node.node.access.prefix_key = key  # as derived from `key`
    eventually(lambda: [one.node.lane.fingerprints.key for one in nodes] == ["", "", ""], "the fixed key")
    root.node.access.prefix_key = "aa"
    eventually(lambda: [one.node.lane.fingerprints.key for one in nodes] == ["aa", "aa", "aa"], "the root's key")
    cluster.stop(root)
    eventually(lambda: not site.node.uplinks[0].registered, "the loss of the root")
    assert [one.node.lane.fingerprints.key for one in (site, rack)] == ["aa", "aa"]


TEXT = "What is there to be said of it? " * 40
WITH_PROMPT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}]},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"instructions": "Be kind.", "input": TEXT},
    "/v1/messages": {"system": "Be kind.", "messages": [{"role": "user", "content": TEXT}]},
    "/worker_generate_stream": {"prompt": TEXT},
    "/worker_generate": {"prompt": TEXT},
}
BY_LOAD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": TEXT}),
    ("/worker_get_embeddings", {"input": [TEXT]}),
    ("/v1/rerank", {"query": TEXT, "documents": [TEXT]}),
    ("/tokenize", {"prompt": TEXT}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": TEXT}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"messages": TEXT[:200]}),
    ("/v1/completions", {"prompt": ""}),
]


def test_each_path_with_a_prompt_has_a_fingerprint_and_all_others_go_by_load(cluster: Cluster) -> None:
    node = cluster.node("root", engines=(cluster.engine().url, cluster.engine().url), settings=PREFIX)
    wait_for_model(node.url, "simulated", 2)
    with httpx.Client(base_url=node.url, timeout=DEADLINE_S) as http:
        for number, (path, body) in enumerate(WITH_PROMPT.items(), 1):
            salted = {"model": "simulated", **body, "cache_salt": path, "max_tokens": 1, "max_new_tokens": 1}
            before = sample(node, "hierarchy_prompt_bytes_matched_total")
            for _ in range(2):
                http.post(path, json=salted)  # an engine may not have the path
            assert sample(node, "hierarchy_prefix_choices_total") == 2 * number, path
            assert sample(node, "hierarchy_prompt_bytes_matched_total") - before > 1000, path
        entries = sample(node, "hierarchy_prefix_index_entries")
        for path, body in BY_LOAD:
            http.post(path, json={"model": "simulated", **body, "max_tokens": 1})
        http.post("/v1/audio/transcriptions", data={"model": "simulated", "prompt": TEXT}, files={"file": b"x"})
        assert sample(node, "hierarchy_prefix_choices_total") == 2 * len(WITH_PROMPT)
        assert sample(node, "hierarchy_prefix_index_entries") == entries


@pytest.mark.parametrize("roots", [1, 2])
def test_what_a_client_calls_a_session_is_honoured_at_each_level(cluster: Cluster, roots: int) -> None:
    tree = Tree(cluster, roots=roots)
    cluster.call(_settle(tree))
    of_key = set()
    for name in ("one", "two", "three"):
        of_session = set()
        for number in range(2 * roots):
            root = tree.roots[number % roots]
            of_session.add(chat(root, other(), headers={"x-session-id": name}))
            of_key.add(chat(root, other(), prompt_cache_key="key", headers={"x-session-id": name}))
        assert len(of_session) == 1
    assert len(of_key) == 1  # the key comes first


_count = itertools.count()


def other() -> Messages:
    """A prompt that begins as no other one, and is so long that no queue is worth leaving its session's engine."""
    return [{"role": "user", "content": f"{next(_count)}. " + "long " * 4000}]


def responding(name: str, all_came: threading.Barrier) -> Starlette:
    """An engine that has the responses which it made, and no others. First ones are made when all of them came."""
    made: set[str] = set()

    async def responses(request: Request) -> JSONResponse:
        body = await request.json()
        if body.get("previous_response_id") not in (None, *made):
            return JSONResponse({"error": {"message": "no such response"}}, 404)
        if "previous_response_id" not in body:
            await asyncio.to_thread(all_came.wait, DEADLINE_S)
        made.add(made_id := f"resp_{name}_{len(made)}")
        return JSONResponse({"id": made_id, "object": "response", "output": []})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": "m"}]})

    return Starlette(routes=[Route("/v1/models", models), Route("/v1/responses", responses, methods=["POST"])])


def test_a_response_is_continued_where_it_was_made(cluster: Cluster) -> None:
    count = 8
    all_came = threading.Barrier(count)
    with contextlib.ExitStack() as stack:
        urls = tuple(stack.enter_context(running_app(responding(name, all_came))) for name in ("a", "b", "c", "d"))
        root = cluster.node("root", settings=PREFIX)
        for number in range(2):
            engines = urls[2 * number : 2 * number + 2]
            cluster.node(f"site-{number}", parents=(root.url,), engines=engines, settings=PREFIX, kind="openai")
        wait_for_model(root.url, "m", 4)

        def first(_: int) -> str:
            made = httpx.post(f"{root.url}/v1/responses", json={"model": "m", "input": "hi"}, timeout=DEADLINE_S)
            return str(made.json()["id"])

        with ThreadPoolExecutor(count) as pool:
            ids = list(pool.map(first, range(count)))
        assert len({one.split("_")[1] for one in ids}) > 1
        for one in ids:
            body = {"model": "m", "input": "and then?", "previous_response_id": one}
            assert httpx.post(f"{root.url}/v1/responses", json=body).json().get("id", "").startswith(one[:6])
        assert sample(root, "hierarchy_prefix_choices_total") == len(ids)  # sticky; all others are too short


def test_an_alias_matches_the_model_that_it_stands_for(cluster: Cluster) -> None:
    engines = [cluster.engine() for _ in range(3)]
    node = cluster.node("root", engines=tuple(engine.url for engine in engines), settings=PREFIX)
    cluster.call(_reload(node, aliases={"gpt": parse_targets(["simulated"])}))
    wait_for_model(node.url, "simulated", 3)
    paths: dict[object, list[str]] = {}
    for number in range(12):
        messages = session(number)
        paths[number] = [chat(node, messages), chat(node, turn(messages), model="gpt")]
    assert kept(paths) >= 0.75, paths


async def _reload(node: Running, **fields: Any) -> None:
    config: NodeConfig = node.node.config.model_copy(update=fields)
    await node.node.apply(config)


def test_a_salt_keeps_prompts_apart(cluster: Cluster) -> None:
    node = cluster.node("root", engines=(cluster.engine().url, cluster.engine().url), settings=PREFIX)
    wait_for_model(node.url, "simulated", 2)
    for _ in range(4):
        chat(node, session(1), cache_salt="a")
    before = sample(node, "hierarchy_prompt_bytes_matched_total")
    chat(node, session(1), cache_salt="b")
    assert sample(node, "hierarchy_prompt_bytes_matched_total") == before > 0


def test_a_clients_own_field_is_not_believed(cluster: Cluster) -> None:
    tree = Tree(cluster)
    entries = sample(tree.root, "hierarchy_prefix_index_entries")
    for value in ("300;AAAAAAAA", "nonsense", "x" * 300):
        chat(tree.root, [{"role": "user", "content": "hi"}], headers={"x-hierarchy-prefix": value})
    assert sample(tree.root, "hierarchy_prefix_index_entries") == entries
    assert sample(tree.sites[0], "hierarchy_prefix_fields_ignored_total") == 0


@pytest.mark.parametrize("value", [b"nonsense", b"300;AAAA", b"99999999999999;AAAAAAAA", b"\xff"])
def test_a_parents_field_that_is_no_fingerprint_is_ignored_and_counted(cluster: Cluster, value: bytes) -> None:
    tree = Tree(cluster)
    site = tree.sites[0]
    secret, body = site.node.uplinks[0].secret, b'{"model":"simulated","prompt":"hi","max_tokens":1}'
    fields: list[tuple[bytes, bytes]] = [
        (b"x-hierarchy-auth", secret), (b"x-hierarchy-model", b"simulated"), (b"x-hierarchy-seq", b"1000"),
        (b"x-hierarchy-prefix", value), (b"content-type", b"application/json"),
    ]  # fmt: skip
    response = httpx.post(f"{site.url}/v1/completions", content=body, headers=fields, timeout=DEADLINE_S)
    assert response.status_code == 200
    cluster.call(_settle_one(site))
    assert sample(site, "hierarchy_prefix_fields_ignored_total") == 1


async def _settle_one(node: Running) -> None:
    node.node._keep_prefixes()


def test_why_says_where_a_prompt_goes_and_what_each_child_has_of_it(cluster: Cluster) -> None:
    tree = Tree(cluster)
    talk = session(1)
    path = chat(tree.root, talk)
    route = why(tree.root, turn(talk))
    assert (route["path"], route["asked"]) == (path, "simulated")
    assert route["prompt"] > route["levels"][0]["candidates"][0]["match"]
    assert route["digests"] > 0
    for level, name in zip(route["levels"], path.split("/"), strict=True):
        assert (level["next"], level["reason"]) == (name, "match")
        matches = {one["name"]: one["match"] for one in level["candidates"]}
        assert matches.pop(name) > 2000
        assert list(matches.values()) == [0]
    assert why(tree.root, [{"role": "user", "content": "hi"}])["digests"] == 0
    assert sample(tree.root, "hierarchy_prefix_choices_total") == 1  # nothing of this was counted or remembered


def test_an_engines_own_hit_rate_is_shown_beside_what_its_node_expects(cluster: Cluster) -> None:
    engines = tuple(cluster.engine(cache_tokens=10_000).url for _ in range(2))
    node = cluster.node("root", engines=engines, settings=PREFIX)
    wait_for_model(node.url, "simulated", 2)
    for _ in range(4):
        path = chat(node, session(1))
    row = eventually(lambda: hit_rates(node, path), "both hit rates")
    assert row["engine_hit_rate"] == pytest.approx(row["hit_rate"], abs=0.1)
    assert 0.6 < row["hit_rate"] < 0.8
    assert sample(node, "hierarchy_engine_cache_hit_rate") == pytest.approx(row["engine_hit_rate"], abs=0.01)
    assert 0 < sample(node, "hierarchy_prefix_index_bytes") < 100_000
    candidate = why(node, session(1))["levels"][0]["candidates"][0]
    assert (candidate["hit_rate"], candidate["engine_hit_rate"]) == (row["hit_rate"], row["engine_hit_rate"])


def hit_rates(node: Running, engine: str) -> dict[str, float] | None:
    """The row of an engine's model in the tree, once all four requests are in it."""
    row: dict[str, float] = httpx.get(f"{node.url}/tree").json()["children"][engine]["models"][0]
    return row if min(row.get("hit_rate", 0), row.get("engine_hit_rate", 0)) > 0.6 else None


def why(root: Running, messages: Messages, **params: str) -> dict[str, Any]:
    body = {"model": "simulated", "messages": messages, "max_tokens": 1}
    response = httpx.post(f"{root.url}/route", json=body, timeout=DEADLINE_S, params=params)
    assert response.status_code == 200, response.text
    route: dict[str, Any] = response.json()
    return route


def test_a_reload_of_other_settings_keeps_what_is_known(cluster: Cluster) -> None:
    node = cluster.node("root", engines=(cluster.engine().url, cluster.engine().url), settings=PREFIX)
    wait_for_model(node.url, "simulated", 2)
    chat(node, session(1))
    before = sample(node, "hierarchy_prefix_index_entries")
    cluster.call(_reload(node, settings=PREFIX.model_copy(update={"index_memory": 2 * 1024 * 1024})))
    assert sample(node, "hierarchy_prefix_index_entries") == before > 0

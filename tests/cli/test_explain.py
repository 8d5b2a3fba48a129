"""`hierarchy why`, against a real tree."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import httpx
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from hierarchy.cli.client import NodeClient
from hierarchy.cli.explain import _conclusion, _table, why
from hierarchy.errors import UsageError
from hierarchy.introspection.explain import Candidate, Level, Route
from hierarchy.registry.drain import Drain
from tests.cluster import CALM, Cluster, wait_for_model


def run(*args: str) -> Result:
    app = typer.Typer()
    app.command()(why)
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "120"}, catch_exceptions=False)


def lines(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_each_level_is_shown(cluster: Cluster) -> None:
    root = cluster.node("root", settings=CALM)
    engines = tuple(cluster.engine(models=(name,)).url for name in ("m", "n"))
    cluster.node("site", parents=(root.url,), engines=engines, settings=CALM)
    wait_for_model(root.url, "m")
    wait_for_model(root.url, "n")
    result = run("m", "--url", root.url)
    assert result.exit_code == 0
    shown = lines(result)
    assert shown[0] == "m through the openai API"
    assert "root chooses by shortest_queue" in shown
    assert "→ site 0 1 0 8 0 100%" in shown
    assert "→ site-1 0 1 0 8 0 100% simulated" in shown
    assert "· site-2 does not serve m" in shown
    assert shown[-1] == "the next request goes to site/site-1"
    route = json.loads(run("m", "--url", root.url, "--json").output)
    assert route == httpx.get(f"{root.url}/route", params={"model": "m"}).json()
    with pytest.raises(UsageError, match="answered 404: no child serves model 'x'; models here: m, n"):
        run("x", "--url", root.url)


def test_a_prompt_is_looked_for(cluster: Cluster, tmp_path: Path) -> None:
    settings = CALM.model_copy(update={"dispatch": "prefix"})
    root = cluster.node("root", engines=(cluster.engine(models=("m",)).url,), settings=settings)
    wait_for_model(root.url, "m")
    shown = lines(run("m", "--url", root.url, "--prompt", "hi"))
    assert shown[1] == "prompt of 30 bytes, too short to be looked for: it goes by load"
    assert "child load speed score slots match pending round trip tier cost chance" in shown
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "m", "prompt": "long " * 100}))
    shown = lines(run("m", "--url", root.url, "--body", str(body), "--session", "s", "--caller", "ann"))
    assert shown[1] == "prompt of 501 bytes"
    # A busy machine may take any time for a probe, which costs something then.
    assert any(re.fullmatch(r"→ root-1 0 1 0 8 0 0 \S+ ms - [\d,]+ 100% simulated", line) for line in shown)
    asked = ["m", "--url", root.url]
    for args, error in {
        ("--prompt", "a", "--body", "b"): "exclude each other",
        ("--session", "s"): "belong to a prompt",
        ("--body", str(tmp_path / "none")): "No such file or directory; write - to read it from stdin",
    }.items():
        with pytest.raises(UsageError, match=error):
            run(*asked, *args)
    for content, error in {
        b"": "400: the body is not JSON: it is empty",
        b"\xff": "400: the body is not JSON",
        b"[]": "400: the body must be a JSON object",
        b'{"model":"n"}': "400: the body is for model 'n', not for 'm'",
        b'{"prompt":"a"}': "400: the body has no 'model'",
    }.items():
        body.write_bytes(content)
        with pytest.raises(UsageError, match=error):
            run(*asked, "--body", str(body))
    with pytest.raises(UsageError, match="`session` is longer than 256 characters"):
        run(*asked, "--prompt", "a", "--session", "s" * 257)


def test_a_model_that_no_engine_can_take_now_is_status_1(cluster: Cluster) -> None:
    node = cluster.node("node", engines=(cluster.engine(models=("m",)).url,))
    wait_for_model(node.url, "m")
    child = next(iter(node.node.registry))
    cluster.loop.call_soon_threadsafe(node.node.registry.set_drain, child.name, Drain(by="ann"))
    result = run("m", "--url", node.url)
    assert result.exit_code == 1
    assert "· node-1 draining: by ann" in lines(result)
    assert lines(result)[-1] == "no engine can take the request now"


LIKELY = Candidate("a", chance=0.6)


@pytest.mark.parametrize(
    ("route", "conclusion"),
    [
        (Route("m", "m", "openai"), "no engine can take the request now"),
        (Route("m", "m", "openai", [Level("root", "", "openai", [Candidate("a", chance=1.0)])], "a"), "goes to a"),
        (Route("m", "m", "openai", [Level("root", "", "openai", [LIKELY])], "a"), "most likely goes to a"),
        (
            Route("m", "m", "openai", [Level("root", "", "fastchat")], "a"),
            "through the fastchat API, so the node above",
        ),
    ],
)
def test_the_conclusion(route: Route, conclusion: str) -> None:
    assert conclusion in _conclusion(route).plain


def test_a_response_that_is_not_a_route_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeClient, "get", lambda *_args, **_params: {"model": "m", "path": 7})
    with pytest.raises(UsageError, match="not understood"):
        run("m")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://a"])
def test_a_node_that_cannot_be_read_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        run("m", "--url", url)


def test_tiers_and_expected_waits_are_columns_where_some_children_are_preferred() -> None:
    candidate = Candidate(
        "cloud", kind="node", load=3, speed=2, score=1.5, chance=1.0, round_trip_s=0.08, tier=2, wait_s=1.5
    )
    for policy, headings in (
        ("p2c", "child load speed score slots busy round trip tier wait chance"),
        ("prefix", "child load speed score slots match pending round trip tier wait cost chance"),
    ):
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(_table(Level("root", policy, "openai", [candidate], next="cloud")))
        shown = [" ".join(line.split()) for line in console.export_text().splitlines()]
        assert shown[0] == headings
        assert " 80 ms 2 1.5 s " in shown[1]

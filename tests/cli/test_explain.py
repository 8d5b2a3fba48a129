"""`hierarchy why`, against a real tree."""

from __future__ import annotations

import json

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from hierarchy.cli.client import NodeClient
from hierarchy.cli.explain import _conclusion, why
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
    assert "→ site 0 1 0 100%" in shown
    assert "→ site-1 0 1 0 100% simulated" in shown
    assert "· site-2 does not serve m" in shown
    assert shown[-1] == "the next request goes to site/site-1"
    route = json.loads(run("m", "--url", root.url, "--json").output)
    assert route == httpx.get(f"{root.url}/route", params={"model": "m"}).json()
    with pytest.raises(UsageError, match="answered 404: no child serves model 'x'; models here: m, n"):
        run("x", "--url", root.url)


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

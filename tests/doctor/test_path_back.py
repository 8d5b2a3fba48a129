"""The path from the parent back to the node, and which `link` follows from it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from hierarchy.doctor.finding import Finding, Verdict, ok
from hierarchy.doctor.path_back import PathBack, check_path_back, recommend_link
from hierarchy.doctor.path_to_parent import PathToParent
from tests.mock_transport import MockTransport
from tests.support import free_port

PARENT = "http://10.0.0.1:21001"
ME = "http://10.1.0.1:21001"
METRICS = 'hierarchy_requests_total{api="openai",child="site",model="m",outcome="%s"} 3.0\n'


def checked(
    pages: dict[str, Any], allowed: bool | None = None, here: bool = False, advertise: str = ME, link: str = "direct"
) -> PathBack:
    def respond(request: httpx.Request) -> httpx.Response:
        page = pages.get(request.url.path)
        if page is None:
            return httpx.Response(401, json={"error": {}})
        return httpx.Response(200, **({"text": page} if isinstance(page, str) else {"json": page}))

    async def run() -> PathBack:
        path = PathToParent(PARENT, addresses=["127.0.0.1"] if here else ["203.0.113.7"], reached=True, is_node=True)
        async with httpx.AsyncClient(transport=MockTransport(respond)) as http:
            return await check_path_back("site", advertise, path, allowed, http, link)

    return asyncio.run(run())


def tree(state: str, detail: str = "", link: str = "") -> dict[str, Any]:
    return {"children": {"site": {"state": state, "detail": detail, "link": link}}}


@pytest.mark.parametrize(
    ("pages", "allowed", "works", "what"),
    [
        ({}, None, None, "not registered yet"),
        ({}, True, None, "not registered yet"),
        ({"/tree": tree("up")}, False, False, "do not let the parent dial this node"),
        ({"/tree": tree("up"), "/metrics": METRICS % "failed"}, None, None, "registered, up, but no request"),
        ({"/tree": tree("up"), "/metrics": METRICS % "ok"}, None, True, "3 requests of the parent"),
        ({"/metrics": METRICS % "ok"}, None, True, "3 requests of the parent"),
        ({"/tree": tree("ejected", "no connection in time")}, None, False, "just failed: no connection in time"),
        ({"/tree": [], "/metrics": "<html>"}, None, None, "not registered yet"),
        ({"/tree": "junk"}, None, None, "not registered yet"),
    ],
)
def test_whether_the_parent_can_dial_the_node(
    pages: dict[str, Any], allowed: bool | None, works: bool | None, what: str
) -> None:
    back = checked(pages, allowed)
    assert back.works is works
    assert what in back.finding.what
    if works is None:
        assert f"curl -m 5 {ME}/health" in back.finding.hint


@pytest.mark.parametrize(("link", "verdict"), [("direct", Verdict.FAIL), ("reverse", Verdict.OK), ("auto", Verdict.OK)])
def test_a_parent_that_may_not_dial_is_a_problem_only_with_a_direct_link(link: str, verdict: Verdict) -> None:
    back = checked({}, allowed=False, link=link)
    assert (back.works, back.finding.verdict) == (False, verdict)


@pytest.mark.parametrize(
    ("configured", "used", "works", "what"),
    [
        ("auto", "direct", True, "the parent dialled this node when it registered"),
        ("auto", "reverse", False, "the parent could not dial this node when it registered"),
        ("reverse", "reverse", None, "not needed"),
        ("direct", "direct", True, "3 requests"),  # `direct` is configured, which does not prove that it works
    ],
)
def test_with_auto_the_parent_has_dialled_back_at_registration(
    configured: str, used: str, works: bool | None, what: str
) -> None:
    back = checked({"/tree": tree("up", link=used), "/metrics": METRICS % "ok"}, link=configured)
    assert back.works is works
    assert what in back.finding.what
    assert back.finding.verdict is Verdict.OK


def test_a_parent_on_this_machine_dials_as_this_machine_does() -> None:
    back = checked({}, here=True, advertise=f"http://127.0.0.1:{free_port()}")
    assert (back.works, back.finding.verdict) == (None, Verdict.SKIP)

    async def run() -> PathBack:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(trust_env=False) as http:
            back = await check_path_back("site", url, PathToParent(PARENT, addresses=["::1", "127.0.0.1"]), None, http)
        server.close()
        return back

    assert asyncio.run(run()).works is True


@pytest.mark.parametrize("pages", [{}, {"/tree": tree("up", link="reverse")}, {"/tree": tree("silent")}])
@pytest.mark.parametrize("advertise", [ME, "http://localhost:21001"])
def test_with_reverse_links_the_parent_never_dials_back(pages: dict[str, Any], advertise: str) -> None:
    back = checked(pages, link="reverse", advertise=advertise)
    assert (back.works, back.finding.verdict, back.finding.hint) == (None, Verdict.OK, "")
    assert "not needed" in back.finding.what


@pytest.mark.parametrize(
    ("link", "verdict", "what"), [("auto", Verdict.OK, "not needed"), ("direct", Verdict.FAIL, "on another")]
)
@pytest.mark.parametrize("url", ["http://localhost:21001", "https://127.0.0.1:21001", "http://[::1]:21001"])
def test_no_one_is_advised_to_dial_a_loopback_address_from_another_machine(
    link: str, verdict: Verdict, what: str, url: str
) -> None:
    back = checked({}, link=link, advertise=url)
    assert (back.works, back.finding.verdict) == (False, verdict)
    assert what in back.finding.what
    assert "curl" not in back.finding.hint
    if link == "direct":
        assert "`link: reverse`" in back.finding.hint


NOTHING = ok("path back", "")


@pytest.mark.parametrize(
    ("link", "reached", "allows_links", "works", "verdict", "what"),
    [
        ("direct", False, False, None, Verdict.FAIL, "until this machine can reach the parent"),
        ("direct", True, True, True, Verdict.OK, "direct, as configured"),
        ("reverse", True, True, True, Verdict.OK, "direct would work too"),
        ("direct", True, True, False, Verdict.WARN, "reverse: the parent cannot dial"),
        ("reverse", True, True, False, Verdict.OK, "reverse, as configured"),
        ("direct", True, False, False, Verdict.FAIL, "none works: the parent cannot dial"),
        ("direct", True, False, None, Verdict.OK, "make sure that it can dial"),
        ("reverse", True, False, None, Verdict.FAIL, "reverse cannot work"),
    ],
)
def test_the_recommendation(
    link: str, reached: bool, allows_links: bool, works: bool | None, verdict: Verdict, what: str
) -> None:
    path = PathToParent(PARENT, reached=reached, allows_links=allows_links)
    finding = recommend_link(link, path, PathBack(works, NOTHING))
    assert finding.verdict is verdict
    assert what in finding.what


def test_the_recommendation_if_nothing_is_known() -> None:
    finding: Finding = recommend_link(
        "direct", PathToParent(PARENT, reached=True, allows_links=True), PathBack(None, NOTHING)
    )
    assert "direct" in finding.what or "auto" in finding.what


def test_a_root_needs_no_link() -> None:
    assert recommend_link("direct", None, None).verdict is Verdict.SKIP

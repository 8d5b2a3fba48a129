"""The parent's way back, and which `link` follows."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from hierarchy.doctor.finding import Finding, Mark, ok
from hierarchy.doctor.path_back import Back, recommend, way_back
from hierarchy.doctor.path_to_parent import Way
from tests.support import free_port

PARENT = "http://10.0.0.1:21001"
ME = "http://10.1.0.1:21001"
METRICS = 'hierarchy_requests_total{api="openai",child="site",model="m",outcome="%s"} 3.0\n'


def looked(
    pages: dict[str, Any], allowed: bool | None = None, here: bool = False, advertise: str = ME, link: str = "direct"
) -> Back:
    def answer(request: httpx.Request) -> httpx.Response:
        page = pages.get(request.url.path)
        if page is None:
            return httpx.Response(401, json={"error": {}})
        return httpx.Response(200, **({"text": page} if isinstance(page, str) else {"json": page}))

    async def run() -> Back:
        way = Way(PARENT, addresses=["127.0.0.1"] if here else ["10.0.0.1"], reached=True, answers=True)
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            return await way_back("site", advertise, way, allowed, http, link)

    return asyncio.run(run())


def tree(state: str, detail: str = "", link: str = "") -> dict[str, Any]:
    return {"children": {"site": {"state": state, "detail": detail, "link": link}}}


@pytest.mark.parametrize(
    ("pages", "allowed", "works", "says"),
    [
        ({}, None, None, "not registered yet"),
        ({}, True, None, "not registered yet"),
        ({"/tree": tree("up")}, False, False, "let nobody dial this node"),
        ({"/tree": tree("up"), "/metrics": METRICS % "failed"}, None, None, "registered, up, but no request"),
        ({"/tree": tree("up"), "/metrics": METRICS % "ok"}, None, True, "3 requests of the parent"),
        ({"/metrics": METRICS % "ok"}, None, True, "3 requests of the parent"),
        ({"/tree": tree("ejected", "no connection in time")}, None, False, "just failed: no connection in time"),
        ({"/tree": [], "/metrics": "<html>"}, None, None, "not registered yet"),
        ({"/tree": "junk"}, None, None, "not registered yet"),
    ],
)
def test_the_way_back(pages: dict[str, Any], allowed: bool | None, works: bool | None, says: str) -> None:
    back = looked(pages, allowed)
    assert back.works is works
    assert says in back.finding.what
    if works is None:
        assert f"curl -m 5 {ME}/health" in back.finding.mend


@pytest.mark.parametrize(("link", "mark"), [("direct", Mark.FAIL), ("reverse", Mark.OK), ("auto", Mark.OK)])
def test_a_parent_that_may_not_dial_is_a_problem_only_with_a_direct_link(link: str, mark: Mark) -> None:
    back = looked({}, allowed=False, link=link)
    assert (back.works, back.finding.mark) == (False, mark)


@pytest.mark.parametrize(
    ("written", "seen", "works", "says"),
    [
        ("auto", "direct", True, "the parent dialled this node when it registered"),
        ("auto", "reverse", False, "the parent tried when this node registered"),
        ("reverse", "reverse", None, "none is needed"),
        ("direct", "direct", True, "3 requests"),  # that it is written says nothing of whether it works
    ],
)
def test_the_parent_has_dialled_back_where_it_was_left_to_it(
    written: str, seen: str, works: bool | None, says: str
) -> None:
    back = looked({"/tree": tree("up", link=seen), "/metrics": METRICS % "ok"}, link=written)
    assert back.works is works
    assert says in back.finding.what
    assert back.finding.mark is Mark.OK


def test_a_parent_on_this_machine_has_our_way() -> None:
    back = looked({}, here=True, advertise=f"http://127.0.0.1:{free_port()}")
    assert (back.works, back.finding.mark) == (None, Mark.SKIP)

    async def run() -> Back:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient(trust_env=False) as http:
            back = await way_back("site", url, Way(PARENT, addresses=["::1", "127.0.0.1"]), None, http)
        server.close()
        return back

    assert asyncio.run(run()).works is True


NOTHING = ok("way back", "")


@pytest.mark.parametrize(
    ("link", "reached", "upgrades", "works", "mark", "says"),
    [
        ("direct", False, False, None, Mark.FAIL, "before the parent can be reached"),
        ("direct", True, True, True, Mark.OK, "direct, as it is written"),
        ("reverse", True, True, True, Mark.OK, "direct would do"),
        ("direct", True, True, False, Mark.WARN, "reverse: the parent cannot dial"),
        ("reverse", True, True, False, Mark.OK, "reverse, as it is written"),
        ("direct", True, False, False, Mark.FAIL, "neither way is open"),
        ("direct", True, False, None, Mark.OK, "make sure that the parent can dial"),
    ],
)
def test_the_recommendation(
    link: str, reached: bool, upgrades: bool, works: bool | None, mark: Mark, says: str
) -> None:
    way = Way(PARENT, reached=reached, upgrades=upgrades)
    finding = recommend(link, way, Back(works, NOTHING))
    assert finding.mark is mark
    assert says in finding.what


def test_where_nothing_is_known_the_choice_is_left_open() -> None:
    finding: Finding = recommend("direct", Way(PARENT, reached=True, upgrades=True), Back(None, NOTHING))
    assert "direct" in finding.what or "auto" in finding.what


def test_a_root_needs_none() -> None:
    assert recommend("direct", None, None).mark is Mark.SKIP

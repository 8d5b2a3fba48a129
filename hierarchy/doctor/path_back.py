"""The parent's way back to this node, as far as it can be told from here; and which `link` follows from it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from hierarchy.config.address import parse_url
from hierarchy.doctor.finding import Finding, fail, ok, skip, warn
from hierarchy.doctor.path_to_parent import TIMEOUT_S, Way
from hierarchy.engines.adapters.reading import Answer
from hierarchy.errors import EngineUnreadable


@dataclass(frozen=True)
class Back:
    """works: True if it was seen to, False if it cannot, None if nobody knows."""

    works: bool | None
    finding: Finding


async def way_back(
    name: str, advertise: str, way: Way, allowed: bool | None, http: httpx.AsyncClient, link: str = "direct"
) -> Back:
    """allowed: what `subnets` and `reach` say of the parent dialling this node; None if they say nothing.

    link: as it is written. With `auto` the parent has dialled back when the node registered, and its tree tells how
    that went.
    """
    test = f"on the parent's machine: curl -m 5 {advertise}/health"
    if allowed is False:
        what = "`subnets` and `reach` let nobody dial this node from there"
        if link != "direct":
            return Back(False, ok("way back", f"{what}; none is needed: requests come over links from here"))
        return Back(False, fail("way back", what))
    if way.here:
        return await _from_here(advertise)
    if not way.answers:
        return Back(None, warn("way back", "not known", f"test it {test}"))
    state, detail, seen = await _as_the_parent_sees(name, way.url, http)
    if state == "ejected":
        return Back(False, fail("way back", f"the parent has just failed: {detail or 'ejected'}", f"test it {test}"))
    if state == "up" and link == "auto" and seen == "direct":
        return Back(True, ok("way back", "the parent dialled this node when it registered"))
    if state == "up" and seen == "reverse":
        if link == "auto":
            why = "the parent tried when this node registered, and could not dial it"
            return Back(False, ok("way back", f"{why}: requests come over links from here"))
        return Back(None, ok("way back", "none is needed: requests come over links from here"))
    answered = await _answered(name, way.url, http)
    if answered:
        return Back(True, ok("way back", f"{answered} requests of the parent have been answered by this node"))
    known = f"registered, {state}, but no request has come down yet" if state else "this node is not registered yet"
    return Back(None, warn("way back", known, f"test it {test}"))


async def _from_here(advertise: str) -> Back:
    """The parent is on this machine, so that its way is the same as ours."""
    _, (host, port) = parse_url(advertise)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        what = f"the parent is on this machine, but nothing listens at {advertise} yet"
        return Back(None, skip("way back", f"{what}: start the node and ask again"))
    writer.close()
    return Back(True, ok("way back", f"the parent is on this machine, and {advertise} can be dialled from it"))


async def _as_the_parent_sees(name: str, url: str, http: httpx.AsyncClient) -> tuple[str, str, str]:
    """(state, detail, link) of this node in the parent's tree; all "" if it is not there or may not be seen."""
    page = await _json(http, f"{url}/tree")
    children = page.get("children") if isinstance(page, dict) else None
    entry = children.get(name) if isinstance(children, dict) else None
    if not isinstance(entry, dict):
        return "", "", ""
    return str(entry.get("state", "")), str(entry.get("detail", "")), str(entry.get("link", ""))


async def _answered(name: str, url: str, http: httpx.AsyncClient) -> int:
    """Requests that the parent sent to this node and got an answer to, by its metrics."""
    try:
        response = await http.get(f"{url}/metrics", timeout=TIMEOUT_S)
        samples = Answer(url, response.status_code, response.content).samples("hierarchy_requests_total")
    except (httpx.HTTPError, EngineUnreadable):
        return 0
    return sum(s.value for s in samples if s.labels.get("child") == name and s.labels.get("outcome") == "ok")


async def _json(http: httpx.AsyncClient, url: str) -> Any:
    try:
        return (await http.get(url, timeout=TIMEOUT_S)).json()
    except (httpx.HTTPError, ValueError):
        return None


def recommend(link: str, way: Way | None, back: Back | None) -> Finding:
    """Which `link` to write. link: the one that is written."""
    if way is None or back is None:
        return skip("link", "none is needed: this node has no parent")
    if not way.reached:
        return fail("link", "none can work before the parent can be reached from here")
    if back.works:
        return _advice("direct", link, "the parent can dial this node")
    if back.works is False:
        if not way.upgrades:
            mend = "let the parent's side dial this node, or let an Upgrade pass to the parent"
            return fail(
                "link", "neither way is open: the parent cannot dial this node, and no link arrives there", mend
            )
        return _advice("reverse", link, "the parent cannot dial this node, and a link from here arrives")
    if not way.upgrades:
        return _advice("direct", link, "a link from here does not arrive; make sure that the parent can dial this node")
    if way.here:
        return _advice("direct", link, "the parent is on this machine")
    return _advice("auto", link, "whether the parent can dial this node is not known here; it finds out by itself")


def _advice(link: str, written: str, why: str) -> Finding:
    if written == link or written == "auto":
        return ok("link", f"{written}, as it is written: {why}")
    if written == "reverse":
        return ok("link", f"{link} would do: {why}; `reverse` is written, and works as well")
    return warn("link", f"{link}: {why}", f"write `link: {link}` at this node; `{written}` is written now")

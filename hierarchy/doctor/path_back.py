"""The path from the parent back to this node, as far as this machine can check it, and the `link` to configure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from hierarchy.config.address import host_of, is_loopback, parse_url
from hierarchy.doctor.finding import Finding, fail, ok, skip, warn
from hierarchy.doctor.path_to_parent import TIMEOUT_S, PathToParent
from hierarchy.engines.adapters.reading import EngineResponse
from hierarchy.errors import EngineUnreadable
from hierarchy.runtime.fetch import LARGE_BYTES, LARGE_VALUES, fetch
from hierarchy.wire.tree_entry import TreeEntry, decode

CHECK = "path back"
NOT_NEEDED = "not needed: requests come over links from here"


@dataclass(frozen=True)
class PathBack:
    """Whether the parent can dial this node."""

    #: None if that is unknown
    works: bool | None
    finding: Finding


async def check_path_back(
    name: str,
    advertise: str,
    path: PathToParent,
    allowed: bool | None,
    http: httpx.AsyncClient,
    link: str = "direct",
) -> PathBack:
    """Find out whether the parent can dial this node.

    Args:
        name: of this node.
        advertise: the URL at which it registers.
        path: what was found on the path to the parent.
        allowed: whether `subnets` and `reach` let the parent dial this node; None if they do not say.
        http: client for requests to the parent.
        link: the configured one. With `auto`, the parent dials back at the registration, and its tree shows the result.
    """
    if allowed is False:
        what = "`subnets` and `reach` do not let the parent dial this node"
        return PathBack(False, fail(CHECK, what) if link == "direct" else ok(CHECK, f"{what}; {NOT_NEEDED}"))
    if link == "reverse":
        return PathBack(None, ok(CHECK, NOT_NEEDED))
    if path.same_machine:
        return await _dial_here(advertise)
    if is_loopback(host_of(advertise)):
        return _not_here(advertise, link)
    test = f"on the parent's machine, run: curl -m 5 {advertise}/health"
    if not path.is_node:
        return PathBack(None, warn(CHECK, "unknown", test))
    entry = await _entry_at_parent(name, path.url, http)
    if entry is not None and entry.state == "ejected":
        return PathBack(
            False, fail(CHECK, f"requests of the parent have just failed: {entry.detail or 'ejected'}", test)
        )
    if entry is not None and entry.state == "up" and link == "auto":
        return _as_registered(entry)
    succeeded = await _succeeded_requests(name, path.url, http)
    if succeeded:
        return PathBack(True, ok(CHECK, f"this node has responded to {succeeded} requests of the parent"))
    known = f"registered, {entry.state}, but no request has come yet" if entry else "this node is not registered yet"
    return PathBack(None, warn(CHECK, known, test))


def _not_here(advertise: str, link: str) -> PathBack:
    """The result for a node that registers a loopback address with a parent on another machine."""
    what = f"{advertise} is on this machine only, and the parent is on another"
    if link != "direct":
        return PathBack(False, ok(CHECK, f"{what}; {NOT_NEEDED}"))
    hint = "set `listen` or `advertise` to an address that the parent can dial, or `link: reverse`"
    return PathBack(False, fail(CHECK, what, hint))


def _as_registered(entry: TreeEntry) -> PathBack:
    """What the link in use shows about the path back, with `auto`. entry: this node, which is up."""
    if entry.link != "reverse":
        return PathBack(True, ok(CHECK, "the parent dialled this node when it registered"))
    what = "the parent could not dial this node when it registered: requests come over links from here"
    return PathBack(False, ok(CHECK, what))


async def _dial_here(advertise: str) -> PathBack:
    """Dial this node from here, as a parent on this machine would."""
    _, (host, port) = parse_url(advertise)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        what = f"the parent is on this machine, but nothing listens at {advertise} yet"
        return PathBack(None, skip(CHECK, f"{what}: start the node and run this command again"))
    writer.close()
    return PathBack(True, ok(CHECK, f"the parent is on this machine, and {advertise} can be dialled from it"))


async def _entry_at_parent(name: str, url: str, http: httpx.AsyncClient) -> TreeEntry | None:
    """This node in the parent's tree; None if it is not there, or if the tree cannot be read."""
    page = await _json(http, f"{url}/tree")
    return decode(page).children.get(name) if isinstance(page, dict) else None


async def _succeeded_requests(name: str, url: str, http: httpx.AsyncClient) -> int:
    """How many requests of the parent to this node succeeded, by its metrics; 0 if they cannot be read."""
    try:
        response = await fetch(http, "GET", f"{url}/metrics", timeout_s=TIMEOUT_S)
        samples = EngineResponse(url, response.status, response.body).samples("hierarchy_requests_total")
    except (httpx.HTTPError, EngineUnreadable):
        return 0
    return sum(s.value for s in samples if s.labels.get("child") == name and s.labels.get("outcome") == "ok")


async def _json(http: httpx.AsyncClient, url: str) -> Any:
    try:
        response = await fetch(http, "GET", url, timeout_s=TIMEOUT_S, max_bytes=LARGE_BYTES)
    except httpx.HTTPError:
        return None
    return response.json_or_none(LARGE_VALUES)


def recommend_link(link: str, path: PathToParent | None, back: PathBack | None) -> Finding:
    """Which `link` to configure. link: the configured one. path, back: None for a node without a parent."""
    if path is None or back is None:
        return skip("link", "not needed: this node has no parent")
    if not path.reached:
        return fail("link", "none works until this machine can reach the parent")
    if back.works:
        return _advice("direct", link, "the parent can dial this node")
    if back.works is False and path.allows_links:
        return _advice("reverse", link, "the parent cannot dial this node, and links from here reach the parent")
    if back.works is False:
        what = "none works: the parent cannot dial this node, and links from here do not reach the parent"
        return fail("link", what, "let the parent dial this node, or let Upgrade pass on the path to the parent")
    if not path.allows_links and link == "reverse":
        return fail("link", "reverse cannot work: links from here do not reach the parent", "see `upgrade` above")
    if not path.allows_links:
        return _advice("direct", link, "links from here do not reach the parent; make sure that it can dial this node")
    if path.same_machine:
        return _advice("direct", link, "the parent is on this machine")
    return _advice("auto", link, "it is unknown whether the parent can dial this node; with `auto` it finds out")


def _advice(best: str, configured: str, reason: str) -> Finding:
    if configured in (best, "auto"):
        return ok("link", f"{configured}, as configured: {reason}")
    if configured == "reverse":
        return ok("link", f"{configured}, as configured; {best} would work too: {reason}")
    return warn("link", f"{best}: {reason}", f"write `link: {best}` at this node, which has `{configured}` now")

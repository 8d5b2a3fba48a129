"""All checks of one node's machine, in the order in which their causes follow from each other."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.doctor.finding import Finding, Mark, fail, ok, skip, warn
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.doctor.path_back import recommend, way_back
from hierarchy.doctor.path_to_parent import TIMEOUT_S, walk
from hierarchy.engines import ADAPTERS
from hierarchy.engines.adapters.reading import serve_as
from hierarchy.engines.prober import PROBE_TIMEOUT_S
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.security.secret import read_secret
from hierarchy.security.tls import TlsContexts
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree
from hierarchy.uplink.dial import proxy_for


@dataclass(frozen=True)
class Report:
    """sections: title -> what was found; link: the recommendation."""

    node: str
    sections: Mapping[str, list[Finding]]
    link: Finding

    @property
    def good(self) -> bool:
        """Is there nothing that keeps the node from its work?"""
        found = [finding for section in self.sections.values() for finding in section]
        return not any(finding.mark is Mark.FAIL for finding in [*found, self.link])


async def examine(
    tree: DeclaredTree, name: str, environ: Mapping[str, str] = os.environ, admin: Mapping[str, str] | None = None
) -> Report:
    """Look at the machine, the parent and the engines of one node.

    admin: header fields with an admin key, which are shown to the node itself and to its parent, and to no engine.

    Raises:
        UsageError: there is no such node, the configuration has problems, or a proxy's URL has.
    """
    config = node_config.from_tree(tree, name)
    tls, certificates = _open_tls(config.settings.tls)
    parent = config.parents[0] if config.parents else None
    proxy = proxy_for(parent, config.proxy, environ, config.link) if parent else None
    own = httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin)
    above = httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin, proxy=proxy.url if proxy else None)
    async with own, above:
        machine = [
            *check_listen([address for address in config.listen if address[1]], await _running(config, own)),
            check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
            check_proxy(proxy, environ),
            *certificates,
        ]
        engines = [_check_engine(engine, tls, environ) for engine in config.engines]
        found = list(await asyncio.gather(*engines))
        sections = {"machine": machine}
        way = back = None
        if parent is not None:
            way = await walk(parent, above, tls=tls.node, proxy=proxy)
            allowed = tree.may_dial(tree.graph.members[name].parents[0], name)
            back = await way_back(name, config.advertise, way, allowed, above, config.link)
            sections[f"parent {parent}"] = [*way.findings, *([back.finding] if way.reached else [])]
    if found:
        sections["engines"] = found
    return Report(name, sections, recommend(config.link, way, back))


def _open_tls(spec: TlsSpec) -> tuple[TlsContexts, list[Finding]]:
    """The node's certificates; what is wrong with them is a finding, and the rest goes on with the system's."""
    try:
        return TlsContexts(spec), []
    except UsageError as error:
        return TlsContexts(TlsSpec()), [fail("certificates", str(error), "the node does not start without them")]


async def _running(config: NodeConfig, http: httpx.AsyncClient) -> str:
    """The node's name if it runs here already, at the address that it advertises; "a node" if it tells nobody."""
    try:
        page = (await http.get(f"{config.advertise}/health", timeout=TIMEOUT_S)).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return ""
    if page == {"status": "ok"}:
        return "a node"
    return config.name if isinstance(page, dict) and page.get("node") == config.name else ""


async def _check_engine(engine: EngineConfig, tls: TlsContexts, environ: Mapping[str, str]) -> Finding:
    """With the engine's own key, as the node asks it."""
    try:
        key = read_secret(engine.api_key, environ) if engine.api_key else ""
    except UsageError as error:
        return fail(f"{engine.name} ({engine.kind})", f"its `api_key`: {error}", "the node does not start without it")
    headers = {"authorization": f"Bearer {key}"} if key else None
    async with httpx.AsyncClient(trust_env=False, verify=tls.engine, headers=headers) as http:
        return await check_engine(engine, http)


async def check_engine(engine: EngineConfig, http: httpx.AsyncClient) -> Finding:
    """Ask one engine what the node will ask it."""
    check = f"{engine.name} ({engine.kind})"
    if engine.url is None:
        return skip(check, "is started by the node itself")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            listed = await ADAPTERS[engine.kind].read(http, engine.url, engine.speed)
    except TimeoutError:
        mend = "is the engine up, and may this machine dial it?"
        return fail(check, f"{engine.url} did not answer within {PROBE_TIMEOUT_S:g} s", mend)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mend = "is the engine up, and may this machine dial it?"
        return fail(check, f"{engine.url}: {str(error) or type(error).__name__}", mend)
    except HierarchyError as error:
        return fail(check, str(error), "check the engine's log, and `kind`")
    status, missing = serve_as(listed, engine.models)
    if missing:
        lists = ", ".join(listed.model_names) or "nothing"
        return warn(check, f"lists {lists}, but not {', '.join(missing)}", "mend `models` of this engine")
    if not status.models:
        return warn(check, "answers, but serves no model yet")
    return ok(check, f"{', '.join(status.model_names)}; {status.queue_length} running or waiting")

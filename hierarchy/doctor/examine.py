"""All checks of one node's machine, causes before their effects."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.doctor.finding import Finding, Verdict, fail, ok, skip, warn
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.doctor.path_back import check_path_back, recommend_link
from hierarchy.doctor.path_to_parent import TIMEOUT_S, check_path
from hierarchy.engines.adapters.reading import select_models
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.vitals import LATE_S
from hierarchy.errors import HierarchyError, UsageError, describe
from hierarchy.security.secret import read_secret
from hierarchy.security.tls import TlsContexts
from hierarchy.topology import node_config
from hierarchy.topology.declared import DeclaredTree
from hierarchy.uplink.dial import proxy_for


@dataclass(frozen=True)
class Report:
    """The results of all checks of one machine."""

    #: name of the node
    node: str
    #: title -> findings
    sections: Mapping[str, list[Finding]]
    #: which `link` to configure
    link: Finding

    @property
    def passed(self) -> bool:
        """Whether no check failed, so the node can work."""
        found = [finding for section in self.sections.values() for finding in section]
        return not any(finding.verdict is Verdict.FAIL for finding in [*found, self.link])


async def examine(
    tree: DeclaredTree, name: str, environ: Mapping[str, str] = os.environ, admin: Mapping[str, str] | None = None
) -> Report:
    """Check the machine, the parent and the engines of one node.

    Args:
        name: of the node.
        environ: environment variables.
        admin: header fields with an admin key, for requests to the node itself and to its parent, not to engines.

    Raises:
        UsageError: there is no such node, or the URL of a proxy is not valid.
        ConfigError: the tree has problems.
    """
    config = node_config.from_tree(tree, name)
    tls, certificates = _open_tls(config.settings.tls)
    parent = config.parents[0] if config.parents else None
    proxy = proxy_for(parent, config.proxy, environ, config.link) if parent else None
    to_node = httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin)
    to_parent = httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin, proxy=proxy.url if proxy else None)
    async with to_node, to_parent:
        machine = [
            *check_listen([address for address in config.listen if address[1]], await _running(config, to_node)),
            check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
            check_proxy(proxy, environ),
            *certificates,
        ]
        engines = list(await asyncio.gather(*(_check_engine(engine, tls, environ) for engine in config.engines)))
        sections = {"machine": machine}
        path = back = None
        if parent is not None:
            path = await check_path(parent, to_parent, tls=tls.node, proxy=proxy)
            allowed = tree.may_dial(tree.graph.members[name].parents[0], name)
            back = await check_path_back(name, config.advertise, path, allowed, to_parent, config.link)
            sections[f"parent {parent}"] = [*path.findings, *([back.finding] if path.reached else [])]
    if engines:
        sections["engines"] = engines
    return Report(name, sections, recommend_link(config.link, path, back))


def _open_tls(spec: TlsSpec) -> tuple[TlsContexts, list[Finding]]:
    """The node's certificates. If they are invalid, that is a finding, and the other checks use the system's CAs."""
    try:
        return TlsContexts(spec), []
    except UsageError as error:
        return TlsContexts(TlsSpec()), [fail("certificates", str(error), "the node does not start without them")]


async def _running(config: NodeConfig, http: httpx.AsyncClient) -> str:
    """The name of this node if it runs at its URL; "a node" if a node there hides its name; else ""."""
    try:
        page = (await http.get(f"{config.advertise}/health", timeout=TIMEOUT_S)).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return ""
    if page == {"status": "ok"}:
        return "a node"
    return config.name if isinstance(page, dict) and page.get("node") == config.name else ""


async def _check_engine(engine: EngineConfig, tls: TlsContexts, environ: Mapping[str, str]) -> Finding:
    """Check one engine with the key that the node uses for it."""
    try:
        key = read_secret(engine.api_key, environ) if engine.api_key else ""
    except UsageError as error:
        return fail(f"{engine.name} ({engine.kind})", f"its `api_key`: {error}", "the node does not start without it")
    headers = {"authorization": f"Bearer {key}"} if key else None
    async with httpx.AsyncClient(trust_env=False, verify=tls.engine, headers=headers) as http:
        return await check_engine(engine, http)


async def check_engine(engine: EngineConfig, http: httpx.AsyncClient) -> Finding:
    """Probe one engine as the node will."""
    check = f"{engine.name} ({engine.kind})"
    if engine.url is None:
        return skip(check, "is started by the node itself")
    unreachable = "is the engine running, and may this machine dial it?"
    try:
        async with asyncio.timeout(LATE_S):
            listed = await ADAPTERS[engine.kind].read(http, engine.url, engine.speed)
    except TimeoutError:
        return fail(check, f"{engine.url} did not respond within {LATE_S:g} s", unreachable)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return fail(check, f"{engine.url}: {describe(error)}", unreachable)
    except HierarchyError as error:
        return fail(check, str(error), "check the engine's log, and `kind`")
    status, missing = select_models(listed, engine.models)
    if missing:
        lists = ", ".join(listed.model_names) or "nothing"
        return warn(check, f"lists {lists}, but not {', '.join(missing)}", "correct `models` of this engine")
    if not status.models:
        return warn(check, "responds, but serves no model yet")
    return ok(check, f"{', '.join(status.model_names)}; {status.queue_length} running or waiting")

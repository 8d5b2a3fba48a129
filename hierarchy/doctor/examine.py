"""All checks of one node's machine, causes before their effects."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx

from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.doctor.finding import Finding, Verdict, fail, ok, skip, warn
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.doctor.path_back import PathBack, check_path_back, recommend_link
from hierarchy.doctor.path_to_parent import PathToParent, check_path
from hierarchy.doctor.running import find_running
from hierarchy.doctor.upkeep import check_upkeep
from hierarchy.engines.adapters.reading import EngineHttp, select_models
from hierarchy.engines.kinds import ADAPTERS
from hierarchy.engines.probe_client import ProbeClient, reason_of
from hierarchy.engines.vitals import LATE_S
from hierarchy.errors import HierarchyError, UsageError
from hierarchy.preflight import hung, refusals
from hierarchy.runtime.resolver import Resolver
from hierarchy.security.secret import read_secret
from hierarchy.security.tls import TlsContexts
from hierarchy.topology.declared import DeclaredTree
from hierarchy.uplink.dial import Proxy, proxy_for


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
    tree: DeclaredTree,
    config: NodeConfig,
    environ: Mapping[str, str] = os.environ,
    admin: Mapping[str, str] | None = None,
) -> Report:
    """Check the machine, the parents and the engines of one node.

    Args:
        config: the node's part of `tree`.
        environ: environment variables.
        admin: header fields with an admin key, for requests to the node itself and to its parents, not to engines.

    Raises:
        UsageError: the URL of a proxy is not valid.
    """
    if silent := hung([config], environ):
        found = [fail("start", one.what, f"the node does not start: {one.hint}") for one in silent[config.name]]
        return Report(config.name, {"machine": found}, skip("link", "not examined: files do not answer"))
    tls = _open_tls(config.settings.tls)
    proxies = [proxy_for(parent, config.proxy, environ, config.link) for parent in config.parents]
    addresses = [address for address in (*config.listen, *config.admin) if address[1]]
    async with httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin) as to_node:
        machine = [
            *check_listen(addresses, await find_running(config, addresses, to_node)),
            *_check_start(config, environ),
            *check_upkeep(config, environ),
            check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
            check_proxy(next(iter(proxies), None), environ),
        ]
    engines = list(await asyncio.gather(*(_check_engine(engine, tls, environ) for engine in config.engines)))
    parents = [
        await _examine_parent(tree, config, url, proxy, tls, admin)
        for url, proxy in zip(config.parents, proxies, strict=True)
    ]
    sections = {"machine": machine, **_parent_sections(parents)}
    if engines:
        sections["engines"] = engines
    best = next((parent for parent in parents if parent[0].reached), next(iter(parents), (None, None)))
    return Report(config.name, sections, recommend_link(config.link, *best))


async def _examine_parent(
    tree: DeclaredTree,
    config: NodeConfig,
    url: str,
    proxy: Proxy | None,
    tls: TlsContexts,
    admin: Mapping[str, str] | None,
) -> tuple[PathToParent, PathBack]:
    keys = tree.graph.members[config.name].parents
    allowed = tree.may_dial(keys[config.parents.index(url)], config.name) if len(keys) == len(config.parents) else None
    through = proxy.url if proxy else None
    async with httpx.AsyncClient(trust_env=False, verify=tls.node, headers=admin, proxy=through) as http:
        path = await check_path(url, http, tls=tls.node, proxy=proxy)
        name = config.replica_of or config.name
        return path, await check_path_back(name, config.advertise, path, allowed, http, config.link)


def _parent_sections(parents: Sequence[tuple[PathToParent, PathBack]]) -> dict[str, list[Finding]]:
    """One section for each parent. Instances replace each other: one that is away is a warning if another is there."""
    any_reached = any(path.reached for path, _ in parents)
    sections = {}
    for path, back in parents:
        found = [*path.findings, *([back.finding] if path.reached else [])]
        if any_reached and not path.reached:
            found = [replace(one, verdict=Verdict.WARN) if one.verdict is Verdict.FAIL else one for one in found]
        sections[f"parent {path.url}"] = found
    return sections


def _open_tls(spec: TlsSpec) -> TlsContexts:
    """The node's certificates. If they are invalid, `_check_start` reports it, and the system's CAs are used here."""
    try:
        return TlsContexts(spec)
    except UsageError:
        return TlsContexts(TlsSpec())


def _check_start(config: NodeConfig, environ: Mapping[str, str]) -> list[Finding]:
    """What `serve` would refuse, except the keys of engines, which are checked with the engines."""
    found = [refusal for refusal in refusals(config, environ) if refusal.field[-1:] != ("api_key",)]
    if not found:
        return [ok("start", "serve finds all files and secrets that it needs")]
    return [fail("start", refusal.what, f"the node does not start: {refusal.hint}") for refusal in found]


async def _check_engine(engine: EngineConfig, tls: TlsContexts, environ: Mapping[str, str]) -> Finding:
    """Check one engine with the key that the node uses for it."""
    try:
        key = read_secret(engine.api_key, environ) if engine.api_key else ""
    except UsageError as error:
        return fail(f"{engine.name} ({engine.kind})", f"its `api_key`: {error}", "the node does not start without it")
    if engine.url is None:
        return skip(f"{engine.name} ({engine.kind})", "is started by the node itself")
    http = ProbeClient(engine.url, time.monotonic, Resolver(), tls=tls.engine, key=key)
    try:
        return await check_engine(engine, http)
    finally:
        http.close()


async def check_engine(engine: EngineConfig, http: EngineHttp) -> Finding:
    """Probe one engine as the node will."""
    check = f"{engine.name} ({engine.kind})"
    unreachable = "is the engine running, and may this machine dial it?"
    try:
        async with asyncio.timeout(LATE_S):
            listed = await ADAPTERS[engine.kind].read(http, engine.speed)
    except TimeoutError:
        return fail(check, f"{http.url} did not respond within {LATE_S:g} s", unreachable)
    except OSError as error:
        return fail(check, f"{http.url}: {reason_of(error)}", unreachable)
    except HierarchyError as error:
        return fail(check, str(error), "check the engine's log, and `kind`")
    status, missing = select_models(listed, engine.models)
    if missing:
        lists = ", ".join(listed.model_names) or "nothing"
        return warn(check, f"lists {lists}, but not {', '.join(missing)}", "correct `models` of this engine")
    if not status.models:
        return warn(check, "responds, but serves no model yet")
    return ok(check, f"{', '.join(status.model_names)}; {status.queue_length} running or waiting")

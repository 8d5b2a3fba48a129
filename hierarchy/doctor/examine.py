"""All checks of one node's machine, in the order in which their causes follow from each other."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from hierarchy.config import EngineConfig, LoadedTree, NodeConfig
from hierarchy.doctor.back import recommend, way_back
from hierarchy.doctor.finding import Finding, Mark, fail, ok, skip, warn
from hierarchy.doctor.machine import check_files, check_listen, check_proxy
from hierarchy.doctor.parent import TIMEOUT_S, walk
from hierarchy.engines import ADAPTERS
from hierarchy.engines.reading import serve_as
from hierarchy.errors import HierarchyError
from hierarchy.health import PROBE_TIMEOUT_S
from hierarchy.reach import parse_reach
from hierarchy.topology import build, cut


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


async def examine(loaded: LoadedTree, name: str, environ: Mapping[str, str] = os.environ) -> Report:
    """Look at the machine, the parent and the engines of one node.

    Raises:
        UsageError: there is no such node, or the configuration has problems.
    """
    config = cut(loaded, name)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as http:
        machine = [
            *check_listen([address for address in config.listen if address[1]], await _running(config, http)),
            check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
            check_proxy(environ),
        ]
        engines = list(await asyncio.gather(*(check_engine(engine, http) for engine in config.engines)))
        sections = {"machine": machine}
        way = back = None
        if config.parents:
            way = await walk(config.parents[0], http)
            back = await way_back(name, config.advertise, way, _allowed(loaded, name), http)
            sections[f"parent {config.parents[0]}"] = [*way.findings, *([back.finding] if way.reached else [])]
    if engines:
        sections["engines"] = engines
    return Report(name, sections, recommend(loaded.config.nodes[name].link, way, back))


async def _running(config: NodeConfig, http: httpx.AsyncClient) -> str:
    """The node's name if it runs here already, at the address that it advertises."""
    try:
        page = (await http.get(f"{config.advertise}/health", timeout=TIMEOUT_S)).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return ""
    return config.name if isinstance(page, dict) and page.get("node") == config.name else ""


def _allowed(loaded: LoadedTree, name: str) -> bool | None:
    """May the parent dial the node, by `subnets` and `reach`? None if they do not tell."""
    tree, graph = loaded.config, build(loaded.config)
    reach, _ = parse_reach(tree.subnets, tree.reach)
    at, above = graph.nodes[name], graph.nodes[tree.nodes[name].parent]
    return reach.may_dial(reach.subnets_of(above), reach.subnets_of(at))


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

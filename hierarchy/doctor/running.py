"""Which process listens at the addresses of a node: the node itself, if it runs already."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from hierarchy.config.address import Address, is_wildcard, url_of
from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import NodeConfig
from hierarchy.doctor.path_to_parent import TIMEOUT_S
from hierarchy.errors import UsageError
from hierarchy.runtime.fetch import fetch
from hierarchy.runtime.folders import expand


async def find_running(
    config: NodeConfig, addresses: Iterable[Address], http: httpx.AsyncClient
) -> Mapping[Address, str]:
    """Address -> how messages name the node that responds there: its name, or "a node" if it hides its name.

    Each address is asked itself: `advertise` may lead elsewhere from this machine, and the certificate is for that
    name.

    Args:
        http: client that checks certificates, and may send an admin key.
    """
    listed = list(addresses)
    async with httpx.AsyncClient(trust_env=False, verify=_unverified(config.settings.tls)) as unverified:
        found = await asyncio.gather(*(_name_at(address, config, http, unverified) for address in listed))
    return {address: name for address, name in zip(listed, found, strict=True) if name}


async def _name_at(address: Address, config: NodeConfig, http: httpx.AsyncClient, unverified: httpx.AsyncClient) -> str:
    host, port = address
    if is_wildcard(host):
        host = "::1" if ":" in host else "127.0.0.1"
    url = url_of((host, port), "https" if config.settings.tls.cert else "http")
    page = await _health(url, http) or await _health(url, unverified)
    if page == {"status": "ok"}:
        return "a node"
    names = (config.name, config.replica_of)  # a replica shows the name that it shares
    return config.name if isinstance(page, dict) and page.get("node") in names else ""


async def _health(url: str, http: httpx.AsyncClient) -> Any:
    try:
        return (await fetch(http, "GET", f"{url}/health", timeout_s=TIMEOUT_S)).json_or_none()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
        return None


def _unverified(spec: TlsSpec) -> ssl.SSLContext:
    """For asking a process of this machine for its name. No secret is sent there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if spec.cert and spec.key:
        with contextlib.suppress(
            OSError, ValueError, UsageError
        ):  # reported with everything that keeps the node from starting
            context.load_cert_chain(expand(spec.cert), expand(spec.key), password=lambda: "")
    return context

"""Registers the engine with a controller as an unmodified FastChat worker does.

Source: FastChat, fastchat/serve/base_model_worker.py `register_to_controller` and `send_heart_beat`: a worker registers
before it listens, sends a heartbeat every 45 s, retries 5 s after a failed one, and registers again when the controller
responds `exist: false`. One difference: a FastChat worker that cannot register at its start ends; this one retries.
"""

from __future__ import annotations

import asyncio
import logging

import httpx
import msgspec

from hierarchy.engines.simulated.engine import Engine
from hierarchy.errors import NotJson, describe
from hierarchy.runtime.fetch import Fetched, fetch

RETRY_S = 5.0
TIMEOUT_S = 5.0

logger = logging.getLogger("hierarchy.engines.simulated.worker")


async def stay_registered(engine: Engine, controller: str, address: str) -> None:
    """Register at `controller` (a URL) as the worker `address` and send heartbeats, until cancelled."""
    async with httpx.AsyncClient(base_url=controller.rstrip("/"), timeout=TIMEOUT_S, trust_env=False) as http:
        registered = False
        while True:
            try:
                registered = await (_heartbeat if registered else _register)(engine, http, address)
            except (httpx.HTTPError, NotJson) as error:
                logger.warning("controller %s: %s", controller, describe(error))
                await asyncio.sleep(min(RETRY_S, engine.options.heart_beat_s))
            else:
                if registered:
                    await asyncio.sleep(engine.options.heart_beat_s)


async def _register(engine: Engine, http: httpx.AsyncClient, address: str) -> bool:
    """Returns True. Raises httpx.HTTPError."""
    message = {"worker_name": address, "check_heart_beat": True, "worker_status": engine.worker_status()}
    await _post(http, "/register_worker", message)
    logger.info("registered with %s as %s", http.base_url, address)
    return True


async def _heartbeat(engine: Engine, http: httpx.AsyncClient, address: str) -> bool:
    """Whether the controller still knows the worker. Raises httpx.HTTPError or NotJson."""
    message = {"worker_name": address, "queue_length": engine.slots.queue_length}
    page = (await _post(http, "/receive_heart_beat", message)).json()
    return isinstance(page, dict) and bool(page.get("exist"))


async def _post(http: httpx.AsyncClient, path: str, message: object) -> Fetched:
    """The controller's response. Raises httpx.HTTPError."""
    headers, content = {"content-type": "application/json"}, msgspec.json.encode(message)
    response = await fetch(http, "POST", path, content=content, headers=headers, timeout_s=TIMEOUT_S)
    if not response.is_ok:
        raise httpx.RemoteProtocolError(f"it answered {response.status}: {response.text(200)}")
    return response

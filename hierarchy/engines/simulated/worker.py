"""Registering with a controller just as an unmodified FastChat worker does.

Source: FastChat, fastchat/serve/base_model_worker.py `register_to_controller` and `send_heart_beat`: it registers
before it listens, beats every 45 s, tries again 5 s after a failed beat, and registers anew when told `exist: false`.
One difference: an original that cannot register at its start dies; this one keeps trying.
"""

from __future__ import annotations

import asyncio
import logging

import httpx

from hierarchy.engines.simulated.engine import Engine

RETRY_S = 5.0
TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


async def stay_registered(engine: Engine, controller: str, address: str) -> None:
    """Register at `controller` as the worker `address` and beat, until cancelled."""
    async with httpx.AsyncClient(base_url=controller.rstrip("/"), timeout=TIMEOUT_S) as http:
        registered = False
        while True:
            try:
                registered = await (_beat if registered else _register)(engine, http, address)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                logger.warning("controller %s: %s", controller, str(error) or type(error).__name__)
                await asyncio.sleep(min(RETRY_S, engine.options.heart_beat_s))
            else:
                if registered:
                    await asyncio.sleep(engine.options.heart_beat_s)


async def _register(engine: Engine, http: httpx.AsyncClient, address: str) -> bool:
    message = {"worker_name": address, "check_heart_beat": True, "worker_status": engine.fastchat_status()}
    (await http.post("/register_worker", json=message)).raise_for_status()
    logger.info("registered with %s as %s", http.base_url, address)
    return True


async def _beat(engine: Engine, http: httpx.AsyncClient, address: str) -> bool:
    message = {"worker_name": address, "queue_length": engine.slots.queue_length}
    return bool((await http.post("/receive_heart_beat", json=message)).json()["exist"])

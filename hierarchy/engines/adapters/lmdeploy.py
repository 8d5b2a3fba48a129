"""LMDeploy's api_server.

Source: LMDeploy, lmdeploy/metrics/loggers.py: gauges `lmdeploy:num_requests_running` and
`lmdeploy:num_requests_waiting` (in the engine), and `lmdeploy:num_api_requests_waiting` (before it, for a free request
handle), labels `model_name` and `engine`, one for each data-parallel rank. `lmdeploy:num_api_requests_routed` counts
what runs and waits in the engine a second time, so it is not read. Current releases have these gauges unless started
with `--disable-metrics`, older ones with `--enable-metrics`.
`GET /health` is 200 while it lives, `GET /v1/models` has the model and its adapters.
"""

from __future__ import annotations

from typing import ClassVar

from hierarchy.engines.adapters.reading import EngineHttp, get, load_of, openai_model_names, status_of_engine
from hierarchy.wire.status import NodeStatus

RUNNING = "lmdeploy:num_requests_running"
WAITING = ("lmdeploy:num_requests_waiting", "lmdeploy:num_api_requests_waiting")


class LmdeployAdapter:
    """An `Adapter` for `kind: lmdeploy`."""

    kind: ClassVar[str] = "lmdeploy"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        (await get(http, "/health")).require_ok()
        names = await openai_model_names(http)
        samples = (await get(http, "/metrics")).samples(RUNNING, *WAITING)
        queue_length, waiting = load_of(samples, *WAITING)
        return status_of_engine(names, speed, queue_length, waiting=waiting)

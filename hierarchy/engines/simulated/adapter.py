"""Reads a simulated engine: vLLM's endpoints, its models in both API families, its slots from `/simulated`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from hierarchy.engines.adapters.reading import EngineHttp, get
from hierarchy.engines.adapters.vllm import VllmAdapter
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import NodeStatus


class SimulatedAdapter:
    """An `Adapter` for `kind: simulated`."""

    kind: ClassVar[str] = "simulated"

    def __init__(self) -> None:
        self._vllm = VllmAdapter(self.kind, apis=("openai", "fastchat"))

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`."""
        status = await self._vllm.read(http, speed)
        response = (await get(http, "/simulated")).require_ok()
        state = response.json()
        slots = state.get("slots") if isinstance(state, dict) else None
        if not isinstance(slots, int) or not 0 < slots < 2**31:
            raise EngineUnreadable(f"{response.url} is not the state of a simulated engine: it has no number of slots")
        models = tuple(msgspec.structs.replace(model, slots=slots) for model in status.models)
        return msgspec.structs.replace(status, models=models)

"""A FastChat or TinyChat worker: `POST /worker_get_status` -> `{model_names, speed, queue_length}`.

Source: FastChat, fastchat/serve/base_model_worker.py `get_status`; TinyChat's model_worker responds the same. Its queue
is one semaphore over all its models, running plus waiting.
"""

from __future__ import annotations

import math
from typing import ClassVar

from hierarchy.engines.adapters.reading import EngineHttp, post, status_of_engine, usable_model_names
from hierarchy.errors import EngineUnreadable
from hierarchy.wire.status import MAX_QUEUE, NodeStatus


class FastChatAdapter:
    """An `Adapter` for `kind: fastchat`."""

    kind: ClassVar[str] = "fastchat"

    async def read(self, http: EngineHttp, speed: float) -> NodeStatus:
        """See `Adapter.read`. `speed` multiplies the worker's own, which is always 1 for original workers."""
        response = (await post(http, "/worker_get_status")).require_ok()
        status = response.json()
        if not isinstance(status, dict) or not isinstance(status.get("model_names"), list):
            raise EngineUnreadable(f'{response.url} is not a worker status: it has no array "model_names"')
        own_speed, queue_length = status.get("speed", 1), status.get("queue_length", 0)
        if not _is_number(own_speed) or not 0 < own_speed < math.inf:
            raise EngineUnreadable(f"{response.url} reports speed {own_speed!r}: it must be a number above 0")
        if not _is_number(queue_length) or not 0 <= queue_length <= MAX_QUEUE:
            raise EngineUnreadable(f"{response.url} reports queue_length {queue_length!r}: it must be 0 to {MAX_QUEUE}")
        names = usable_model_names(status["model_names"])
        return status_of_engine(names, speed * own_speed, math.ceil(queue_length), apis=("fastchat",))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

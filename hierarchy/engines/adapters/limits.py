"""How many requests an engine runs at once, where it has a path of its own for that. Each function returns 0 for none.

Sources:
    SGLang: srt/entrypoints/v1_loads.py and srt/managers/io_struct.py `GetLoadsReqOutput`: `GET /v1/loads?include=core`
        has `max_running_requests` for each data-parallel rank. Older releases do not have it.
    TGI: router/src/lib.rs `Info`: `GET /info` had `max_batch_size` from 1.4.1 to 2.2. `max_concurrent_requests`, which
        it has always had, counts those that wait, too, and is not read.
    vLLM: entrypoints/serve/instrumentator/server_info.py: `GET /server_info?config_format=json` exists in development
        mode (`VLLM_SERVER_DEV_MODE=1`) only; its metrics do not have `max_num_seqs`.
    LMDeploy creates `lmdeploy:backend_config` without a value (lmdeploy/metrics/loggers.py), so it reports no limit.

llama.cpp and simulated engines report their slots beside their load, see their adapters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from hierarchy.engines.adapters.reading import EngineHttp, get

MAX_SLOTS: Final = 65_536  # of one engine; more are a mistake, or no limit at all


async def of_sglang(http: EngineHttp) -> int:
    """The sum over the data-parallel ranks. Raises as `EngineHttp.ask`, or `EngineUnreadable`."""
    page = await _page(http, "/v1/loads?include=core")
    ranks = page.get("loads")
    if not isinstance(ranks, list) or not ranks:
        return 0
    slots = [usable(rank.get("max_running_requests")) if isinstance(rank, dict) else 0 for rank in ranks]
    return usable(sum(slots)) if all(slots) else 0


async def of_tgi(http: EngineHttp) -> int:
    """Raises as `EngineHttp.ask`, or `EngineUnreadable`."""
    return usable((await _page(http, "/info")).get("max_batch_size"))


async def of_vllm(http: EngineHttp) -> int:
    """The sum over the data-parallel ranks behind this server. Raises as `EngineHttp.ask`, or `EngineUnreadable`."""
    config = _member(await _page(http, "/server_info?config_format=json"), "vllm_config")
    parallel = _member(config, "parallel_config")
    ranks = usable(parallel.get("data_parallel_size", 1))
    if ranks > 1 and (parallel.get("data_parallel_external_lb") or parallel.get("data_parallel_hybrid_lb")):
        return 0  # other servers have some of the ranks
    return usable(ranks * usable(_member(config, "scheduler_config").get("max_num_seqs")))


#: by the adapter's kind
LIMITS: Final[dict[str, Callable[[EngineHttp], Awaitable[int]]]] = {
    "sglang": of_sglang,
    "tgi": of_tgi,
    "vllm": of_vllm,
}


def usable(value: object) -> int:
    """A number of slots that can be real; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SLOTS else 0


async def _page(http: EngineHttp, path: str) -> dict[str, Any]:
    response = await get(http, path)
    page = response.json() if response.status == HTTPStatus.OK else None
    return page if isinstance(page, dict) else {}


def _member(page: dict[str, Any], name: str) -> dict[str, Any]:
    value = page.get(name)
    return value if isinstance(value, dict) else {}

"""SGLang: its load, from its metrics or from another path."""

from __future__ import annotations

import pytest

from hierarchy.engines.adapters import sglang as adapter
from tests.engines.adapters.support import page, read, sglang


def test_sglang_without_metrics_reports_its_load_elsewhere() -> None:
    responses = sglang(**{"metrics": (404, ""), "v1/loads": page("sglang_loads.json")})
    assert read("sglang", responses).queue_length == 11


@pytest.mark.parametrize(
    "loads",
    ["[]", "{}", '{"loads": 3}', '{"loads": [3, {}, {"num_running_reqs": "9"}, {"num_running_reqs": true}]}',
     '{"loads": [{"num_running_reqs": -4, "num_waiting_reqs": 1e400}]}'.replace("1e400", "null")],
)  # fmt: skip
def test_malformed_loads_of_sglang_are_ignored(loads: str) -> None:
    responses = sglang(**{"metrics": (404, ""), "v1/loads": (200, loads)})
    assert read("sglang", responses).queue_length == 0


def test_sglang_that_responds_late_is_busy_with_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "HEALTH_TIMEOUT_S", 0.02)
    assert read("sglang", sglang(), hanging="/health").queue_length == 11


def test_the_prober_judges_an_idle_sglang_that_responds_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "HEALTH_TIMEOUT_S", 0.02)
    with pytest.raises(TimeoutError):
        read("sglang", sglang(metrics=(404, "")), hanging="/health", limit_s=0.2)


def test_sglang_counts_what_came_from_its_prefix_cache() -> None:
    text = (
        "# TYPE sglang:cached_tokens_total counter\n"
        'sglang:cached_tokens_total{cache_source="device",model_name="m"} 20.0\n'
        'sglang:cached_tokens_total{cache_source="host",model_name="m"} 5.0\n'
        'sglang:prompt_tokens_total{is_streaming="true",model_name="m"} 60.0\n'
        'sglang:prompt_tokens_total{is_streaming="false",model_name="m"} 40.0\n'
    )
    assert read("sglang", sglang(metrics=(200, text))).prompt_tokens == {"m": (25, 100), "": (25, 100)}
    first, *_, streams, others = text.splitlines()
    no_hit = "\n".join([first, streams, others, ""])
    assert read("sglang", sglang(metrics=(200, no_hit))).prompt_tokens == {"m": (0, 100), "": (0, 100)}
    assert read("sglang", sglang(metrics=(200, f"{streams}\n"))).prompt_tokens == {}  # an older release

"""vLLM: its models, and its queues in Prometheus' format."""

from __future__ import annotations

import pytest

from hierarchy.errors import EngineUnreadable
from tests.engines.adapters.support import read, vllm


def test_vllm_ranks_are_summed_and_aliases_and_adapters_get_the_whole_queue() -> None:
    status = read("vllm", vllm(), speed=2)
    assert status.queue_length == 9
    assert [(model.name, model.queue_length, model.speed) for model in status.models] == [
        ('meta/Llama "3"', 9, 2),
        ("llama", 9, 2),
        ("sql-lora", 9, 2),
    ]


def test_vllm_models_with_labels_of_their_own_get_their_own_queues() -> None:
    metrics = 'vllm:num_requests_running{model_name="a"} 3\nvllm:num_requests_waiting{model_name="b"} 0\n'
    models = {"data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    status = read("vllm", vllm(**{"v1/models": (200, models), "metrics": (200, metrics)}))
    assert [model.queue_length for model in status.models] == [3, 0, 3]


@pytest.mark.parametrize("response", [(404, "Not Found"), (200, ""), (200, "<!doctype html><p>{hello}"), (501, "{}")])
def test_an_engine_without_metrics_is_up_with_an_empty_queue(response: tuple[int, str]) -> None:
    status = read("vllm", vllm(metrics=response))
    assert status.queue_length == 0
    assert len(status.models) == 3


def test_vllm_with_a_dead_engine_is_unreadable_though_it_lists_models() -> None:
    with pytest.raises(EngineUnreadable, match="/health answered 503"):
        read("vllm", vllm(health=(503, "")))


@pytest.mark.parametrize(("value", "counted"), [("NaN", 0), ("-4", 0), ("+Inf", 0), ("1e30", 10**9), ("2.0", 2)])
def test_absurd_values_of_metrics_are_ignored_or_limited(value: str, counted: int) -> None:
    responses = vllm(metrics=(200, f'vllm:num_requests_running{{model_name="m"}} {value}\n'))
    assert read("vllm", responses).queue_length == counted


@pytest.mark.parametrize(("awake", "offloaded"), [(1, 0), (0, 1)])
def test_vllm_that_was_put_to_sleep_is_asleep_and_keeps_its_models(awake: int, offloaded: int) -> None:
    metrics = (
        f'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="awake"}} {awake}\n'
        f'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="weights_offloaded"}} {offloaded}\n'
        'vllm:num_requests_running{engine="0",model_name="m"} 2\n'
    )
    status = read("vllm", vllm(metrics=(200, metrics)))
    assert status.asleep is not bool(awake)
    assert status.queue_length == 2
    assert status.models


def test_vllm_of_a_release_without_sleep_mode_is_awake() -> None:
    assert not read("vllm", vllm(metrics=(404, ""))).asleep


SLEEPS = (
    'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="awake"}} 0\n'
    'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="weights_offloaded"}} {0}\n'
    'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="discard_all"}} {1}\n'
)


@pytest.mark.parametrize(
    ("level", "is_sleeping", "wakes"),
    [
        (1, (200, {"is_sleeping": True}), True),
        (1, (200, {"is_sleeping": False}), False),
        (1, (404, "Not Found"), False),  # it is not in development mode
        (1, (200, []), False),
        (2, (200, {"is_sleeping": True}), False),  # its weights are gone
    ],
)
def test_vllm_that_sleeps_can_be_woken_up_if_it_has_its_weights_and_the_path(
    level: int, is_sleeping: tuple[int, object], wakes: bool
) -> None:
    metrics = SLEEPS.format(int(level == 1), int(level == 2))
    status = read("vllm", vllm(metrics=(200, metrics), is_sleeping=is_sleeping))
    assert (status.asleep, status.wakes) == (True, wakes)
    assert {model.load_s > 0 for model in status.models} == {wakes}


def test_vllm_counts_what_came_from_its_prefix_cache() -> None:
    name = r'"meta/Llama \"3\""'
    metrics = (
        "# TYPE vllm:prefix_cache_queries_total counter\n"
        f'vllm:prefix_cache_queries_total{{engine="0",model_name={name}}} 1.5e+06\n'
        f'vllm:prefix_cache_queries_total{{engine="1",model_name={name}}} 500000.0\n'
        f'vllm:prefix_cache_hits_total{{engine="0",model_name={name}}} 9e+10\n'
        'vllm:prefix_cache_hits_created{engine="0",model_name="m"} 7.0\n'
        'vllm:gpu_prefix_cache_queries_total{engine="0",model_name="m"} 7.0\n'
    )
    tokens = read("vllm", vllm(metrics=(200, metrics))).prompt_tokens
    assert tokens == {'meta/Llama "3"': (9e10, 2e6), "": (9e10, 2e6)}


def test_vllm_before_its_release_0_9_has_other_names_for_that() -> None:
    counters = {"queries": 8, "hits": 6}
    metrics = "# TYPE vllm:gpu_prefix_cache_queries_total counter\n"
    metrics += "".join(f'vllm:gpu_prefix_cache_{name}_total{{model_name="m"}} {n}\n' for name, n in counters.items())
    assert read("vllm", vllm(metrics=(200, metrics))).prompt_tokens == {"m": (6, 8), "": (6, 8)}


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "x", "", "1e999"])
def test_counts_that_make_no_sense_are_left_out(value: str) -> None:
    name = "vllm:prefix_cache_queries_total"
    metrics = f'# TYPE {name} counter\n{name}{{model_name="m"}} {value}\n'
    assert read("vllm", vllm(metrics=(200, metrics))).prompt_tokens == {"": (0, 0)}

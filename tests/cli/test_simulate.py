"""`hierarchy simulate`, from its flags to its table, picture and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.program import fails, succeeds
from tests.simulation.traces.test_read import MOONCAKE, SHAREGPT
from tests.trees import CONFIGS

TREE = str(CONFIGS / "three-tiers.yaml")
FEW = ("--chats", "40", "--rate", "2")


def test_policies_are_compared_in_a_table() -> None:
    shown = succeeds("simulate", TREE, *FEW, "--policy", "shortest_queue, p2c,central")
    head, *rows = shown.splitlines()
    assert head.split() == ["shortest_queue", "p2c", "central"]
    assert any(row.startswith("time to first token: mean") and row.count("ms") + row.count(" s") == 3 for row in rows)
    assert "the load was still growing when it ended; use more --chats" in shown


def test_without_a_policy_each_node_has_its_own() -> None:
    assert succeeds("simulate", TREE, *FEW).split()[0] == "declared"


def test_json_has_the_same_for_the_same_seed() -> None:
    ones, others, different = (
        json.loads(succeeds("simulate", TREE, *FEW, "--json", "--seed", seed)) for seed in ("1", "1", "2")
    )
    assert ones == others != different
    (result,) = ones
    assert result["policy"] == "declared"
    assert set(result["ttft_s"]) == {"mean", "p50", "p99"}
    assert 0 < result["hit_rate"] < 1
    assert result["moments"]


def test_a_loss_is_shown_in_phases_and_in_the_picture(tmp_path: Path) -> None:
    picture = tmp_path / "plot.svg"
    shown = succeeds("simulate", TREE, *FEW, "--warm-up", "1", "--lose", "oslo@20", "--plot", picture)
    assert "oslo lost" in shown
    assert "before" in shown
    texts = [text.text for text in ElementTree.parse(picture).getroot().findall("{*}text")]
    assert "oslo lost" in texts


def test_a_loss_that_is_not_counted_is_told() -> None:
    shown = succeeds("simulate", TREE, *FEW, "--lose", "oslo@1")
    assert "oslo lost at 1 s, but what is counted begins from " in shown


def test_a_hot_document_is_a_phase() -> None:
    assert "hot document" in succeeds("simulate", TREE, *FEW, "--warm-up", "1", "--hot-document", "20")


def test_clients_send_as_much_as_is_served() -> None:
    (few,), (many,) = (
        json.loads(succeeds("simulate", TREE, "--chats", "150", "--clients", clients, "--warm-up", "0", "--json"))
        for clients in ("10", "100")
    )
    assert few["requests_per_s"] < many["requests_per_s"]
    assert few["ttft_s"]["mean"] < many["ttft_s"]["mean"]


def test_a_trace_is_simulated(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(MOONCAKE)
    (result,) = json.loads(succeeds("simulate", TREE, "--trace", trace, "--json"))
    assert (result["requests"], result["failed"]) == (3, 0)
    trace.write_text(SHAREGPT)
    (result,) = json.loads(succeeds("simulate", TREE, "--trace", trace, "--rate", "1", "--json"))
    assert result["requests"] == 3


def test_one_model_may_have_all_the_load() -> None:
    (result,) = json.loads(succeeds("simulate", TREE, *FEW, "--model", "sim-code", "--json"))
    assert result["models"] == []
    assert result["busy_least"] == 0.0


def test_distance_and_hardware_count() -> None:
    arguments = ("simulate", str(CONFIGS / "two-tiers.yaml"), *FEW, "--json")
    (near,) = json.loads(succeeds(*arguments))
    (far,) = json.loads(succeeds(*arguments, *(f"--round-trip={name}=400" for name in ("site-a", "site-b"))))
    assert far["ttft_s"]["p50"] > near["ttft_s"]["p50"] + 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "write either --trace FILE or --chats N", id="no load"),
        pytest.param((*FEW, "--trace", "x"), "write either --trace FILE or --chats N", id="two loads"),
        pytest.param(("--chats", "5"), "--chats: add --rate", id="no rate"),
        pytest.param((*FEW, "--clients", "5"), "write either --rate or --clients", id="a rate and clients"),
        pytest.param(("--chats", "5", "--clients", "0"), "--clients 0: write a number from 1", id="no clients"),
        pytest.param(("--chats", "0", "--rate", "1"), "--chats 0: write a number from 1", id="no chats"),
        pytest.param(("--chats", "5", "--rate", "nan"), "--rate nan: write a number above 0", id="rate"),
        pytest.param((*FEW, "--policy", "p2"), '--policy p2: no such policy; did you mean "p2c"?', id="policy"),
        pytest.param((*FEW, "--policy", ","), "--policy: names none; choose among declared, ", id="no policy"),
        pytest.param((*FEW, "--model", "sim-smal"), "--model sim-smal: no engine serves it; did you mean", id="model"),
        pytest.param((*FEW, "--lose", "oslo"), "--lose oslo: write a name, '@' and a number, such as", id="loss"),
        pytest.param((*FEW, "--lose", "olso@5"), 'no node or engine "olso"; did you mean "oslo"?', id="unknown loss"),
        pytest.param((*FEW, "--round-trip", "oslo=-1"), "--round-trip oslo=-1: write a name, '='", id="round trip"),
        pytest.param(("--trace", "/no/such/file"), "--trace /no/such/file: cannot be read", id="no trace"),
        pytest.param((*FEW, "--prefill-tokens-per-s", "0"), "--prefill-tokens-per-s 0: write a number", id="prefill"),
        pytest.param(
            ("--trace", "x", "--shared-start", "5"), "are for --chats; a trace has its own", id="shared start"
        ),
        pytest.param((*FEW, "--plot", "/no/such/plot.svg"), "--plot /no/such/plot.svg: cannot be written", id="plot"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    assert message in fails("simulate", TREE, *arguments, status=2)

"""Lists of methods and paths that clients may call."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.config.blocks import SecuritySpec
from hierarchy.config.client_paths import (
    CONTROL_PATHS,
    FOR_INFERENCE,
    INFERENCE_PATHS,
    ClientPaths,
    check_entries,
    is_control,
)
from hierarchy.http.dialect import PATHS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "security.md"


@pytest.mark.parametrize(
    ("entries", "method", "path", "allowed"),
    [
        (["POST /v1/x"], "POST", "/v1/x", True),
        (["POST /v1/x"], "GET", "/v1/x", False),
        (["POST /v1/x"], "POST", "/v1/x/", False),
        (["POST /v1/x"], "POST", "/v1/xy", False),
        (["POST /v1/x*"], "POST", "/v1/xy", True),
        (["* /v1/x"], "DELETE", "/v1/x", True),
        (["* /*"], "DELETE", "/anything", True),
        (["inference"], "POST", "/v1/chat/completions", True),
        (["inference"], "GET", "/v1/models/a/b", True),
        (["inference", "POST /v1/batches"], "POST", "/v1/batches", True),
        (["inference"], "POST", "/v1/batches", False),
        (["inference"], "POST", "/v1/load_lora_adapter", False),
        ([], "POST", "/v1/chat/completions", False),
    ],
)
def test_what_a_list_contains(entries: list[str], method: str, path: str, allowed: bool) -> None:
    assert ((method, path) in ClientPaths(entries)) is allowed


@pytest.mark.parametrize(
    "entry", ["", "/v1/x", "POST", "POST v1/x", "post /v1/x", "POST /v1/*/x", "POST /v1/x ", "all"]
)
def test_what_is_no_entry_is_a_problem_with_a_hint(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a method and a path"):
        check_entries(["inference", entry])
    with pytest.raises(ValueError, match="is not a method and a path"):
        SecuritySpec.model_validate({"paths": [entry]})


def test_what_changes_an_engine_is_not_inference() -> None:
    for entry in INFERENCE_PATHS:
        method, path = entry.split()
        assert not is_control(method, path) or method != "POST"
    for path in (
        "/v1/load_lora_adapter",
        "/v1/load_lora_adapter/",
        "/v1/models/x:generateContent",
        "/v1/internal/model/load",
    ):
        assert is_control("POST", path)
        assert ("POST", path) not in FOR_INFERENCE


def test_every_path_with_a_dialect_of_its_own_is_inference() -> None:
    assert {("POST", path.decode()) for path in PATHS} <= {
        (entry.split()[0], entry.split()[1]) for entry in INFERENCE_PATHS
    }


def test_the_page_has_both_lists() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    assert set(INFERENCE_PATHS) | set(CONTROL_PATHS) <= set(lines)

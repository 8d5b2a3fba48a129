"""The command of an engine: a list of words."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.config.command import parse_command
from hierarchy.config.models import ConfigError, load
from tests.trees import from_text, problems_of

TREE = """
version: 1
nodes:
  root: {{}}
engines:
  gpu:
    parent: root
    kind: {kind}
    {fields}
"""


def test_numbers_are_words() -> None:
    assert parse_command(["vllm", "serve", "m", "--port", 8000]) == ("vllm", "serve", "m", "--port", "8000")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vllm serve", "is one text, and no shell would split it"),
        ([], "an empty list"),
        ({"a": "b"}, "is not a command"),
        (7, "is not a command"),
        (["vllm", ""], "'' is not a word"),
        (["vllm", True], "True is not a word"),
        (["vllm", 1.5], r"1\.5 is not a word"),
        (["vllm", None], "None is not a word"),
        (["vllm", "a\0b"], "is not a word"),
    ],
)
def test_what_is_not_a_command(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_command(value)
    assert len(caught.value.args) == 2  # with a hint


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("vllm", 'url: "http://127.0.0.1:1"\n    command: vllm serve', "10: engines.gpu.command: is one text"),
        (
            "vllm",
            'url: "http://127.0.0.1:1"\n    command: [vllm]',
            "10: engines.gpu.command: no request names a model",
        ),
        ("simulated", "model: m\n    command: [x]", "10: engines.gpu.command: without `url`"),
        ("vllm", 'url: "http://127.0.0.1:1"\n    load_s: 0', "10: engines.gpu.load_s"),
        ("vllm", 'url: "http://127.0.0.1:1"\n    load_s: 4000', "10: engines.gpu.load_s"),
        ("vllm", 'url: "http://127.0.0.1:1"\n    wake: maybe', "10: engines.gpu.wake"),
    ],
)
def test_a_wrong_value_has_its_line(tmp_path: Path, kind: str, fields: str, problem: str) -> None:
    try:
        (found,) = problems_of(from_text(tmp_path, TREE.format(kind=kind, fields=fields)))
    except ConfigError as error:
        (found,) = [f"{one.line}: {one.what}" for one in error.problems]
    assert found.startswith(problem)


def test_two_nodes_do_not_both_run_a_command(tmp_path: Path) -> None:
    text = """
version: 1
nodes:
  root: {}
  other: {replica_of: root, listen: 'localhost:21002'}
engines:
  gpu: {parent: root, kind: vllm, url: "http://127.0.0.1:1", models: [m], command: [vllm]}
"""
    (found,) = problems_of(from_text(tmp_path, text))
    assert "engines.gpu.command: each of root, other would run the command" in str(found)


def test_a_valid_command_reaches_its_node(tmp_path: Path) -> None:
    fields = 'url: "http://127.0.0.1:1"\n    models: [m]\n    command: [vllm, 7]\n    wake: false\n    load_s: 90'
    path = tmp_path / "tree.yaml"
    path.write_text(TREE.format(kind="vllm", fields=fields))
    spec = load(path).config.engines["gpu"]
    assert (spec.command, spec.wake, spec.load_s) == (("vllm", "7"), False, 90.0)

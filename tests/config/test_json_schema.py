"""The JSON Schema for editors: it accepts what the format accepts, and refuses common mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from hierarchy.config.json_schema import json_schema
from tests.topology.test_slice import SITES
from tests.trees import CONFIGS

FILE = CONFIGS / "tree.schema.json"


def errors(data: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(json_schema()).iter_errors(data)]


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_the_file_beside_the_examples_is_up_to_date() -> None:
    """`hierarchy schema > configs/tree.schema.json` updates it."""
    assert json.loads(FILE.read_text("utf-8")) == json_schema()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_valid_and_name_it(config: Path) -> None:
    text = config.read_text("utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={FILE.name}\n")
    assert errors(YAML(typ="safe", pure=True).load(text)) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (SITES, []),
        ("{version: 1, nodes: {root: }, engines: }", []),
        ("{version: 1, nodes: {root: {listen: 21001, parent: }}, aliases: {a: m}}", []),
        ("{version: 2, nodes: {}}", ["$.version"]),
        ("{nodes: {}}", ["$"]),
        ("{version: 1, nodes: {root: {lisen: 1}}}", ["$.nodes.root"]),
        ("{version: 1, nodes: {}, engines: {e: {parent: r, kind: vlm}}}", ["$.engines.e.kind"]),
        ("{version: 1, nodes: {}, aliases: {a: [{weight: 3}]}}", ["$.aliases.a"]),
    ],
)
def test_valid_files_and_common_mistakes(text: str, where: list[str]) -> None:
    assert errors(YAML(typ="safe", pure=True).load(text)) == where

"""A wrong field hides nothing else that is wrong, and nothing that follows from it is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import ConfigError, read
from hierarchy.topology.declared import DeclaredTree, read_tree
from tests.cli.program import program
from tests.trees import valid_trees

WRONG: dict[str, dict[str, Any]] = {
    "nodes": {
        "parent": 5, "listen": True, "link": "sideways", "dispatch": "red", "dispach": "p2c", "advertise": 7,
        "subnet": 3, "replica_of": 4, "admin_listen": "", "tls": {"cert": "x"}, "security": {"key": "secret"},
        "report_interval_s": -1, "models": {"m": {"idle_timeout_s": 0}},
    },
    "engines": {
        "parent": 5, "kind": "vlm", "speed": -1, "url": 7, "models": [], "prent": "x", "api_key": "secret",
        "simulated": {"slots": 0},
    },
}  # fmt: skip


def problems_of(folder: Path, text: str) -> list[str]:
    path = folder / "tree.yaml"
    path.write_text(text)
    return [f"{problem.line}: {problem.field}" for problem in DeclaredTree(read(path)).problems]


@given(st.data(), valid_trees())
def test_one_wrong_field_is_one_problem(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, tree: dict[str, Any]
) -> None:
    section = data.draw(st.sampled_from(sorted(WRONG)))
    name = data.draw(st.sampled_from(sorted(tree[section])))
    field = data.draw(st.sampled_from(sorted(WRONG[section])))
    tree[section][name][field] = WRONG[section][field]
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(json.dumps({"version": 1, **tree}))
    (problem,) = DeclaredTree(read(path)).problems
    assert problem.field.startswith(f"{section}.{name}.{field}")


@given(st.data(), valid_trees())
def test_any_number_of_wrong_and_missing_fields_are_problems(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, tree: dict[str, Any]
) -> None:
    for section, name in [(one, name) for one in WRONG for name in tree[one]]:
        for field in data.draw(st.sets(st.sampled_from(sorted(WRONG[section])), max_size=3)):
            tree[section][name][field] = WRONG[section][field]
        for field in data.draw(st.sets(st.sampled_from(["parent", "kind", "listen"]), max_size=1)):
            tree[section][name].pop(field, None)
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(json.dumps({"version": 1, **tree}))
    loaded = read(path)
    assert {*loaded.problems} <= {*DeclaredTree(loaded).problems}
    ended = program("check", path)
    assert (ended.status, len(ended.stdout.splitlines())) in ((0, 1), (1, len(DeclaredTree(loaded).problems)))


MANY = """\
version: 1
nodes:
  root: {listen: "localhost:1", dispach: p2c}
  a: {parent: rooot, listen: "localhost:1"}
  b: {parent: 5, listen: "10.0.0.1", report_interval_s: 0}
engines:
  e: {parent: a, kind: vllm, speed: -1}
  f: {parent: b, kind: vlm, url: "ftp://x", models: []}
  g: {parent: a, kind: local, speed: fast}
  h: {kind: simulated, slots: 0}
aliases: {x: [y], y: [m]}
"""


def test_all_problems_of_a_file_are_found_at_once(tmp_path: Path) -> None:
    assert problems_of(tmp_path, MANY) == [
        "3: nodes.root.dispach",
        "4: nodes.a.parent",
        "5: nodes.b.parent",
        "5: nodes.b.report_interval_s",
        "7: engines.e.speed",
        "7: engines.e.url",
        "8: engines.f.kind",
        "8: engines.f.models",
        "8: engines.f.url",
        "9: engines.g.model",
        "9: engines.g.speed",
        "10: engines.h.parent",
        "10: engines.h.slots",
        "11: aliases.x",
    ]
    with pytest.raises(ConfigError) as caught:
        read_tree(tmp_path / "tree.yaml")
    assert len(caught.value.problems) == 14


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes: {root: {listen: 'localhost:1'}}\nengines: {e: {parent: root, kind: simulated}}", ["1: version"]),
        (
            "version: 1\nnodes: {root: {}, 'b d': {parent: root}}\nengines: {e: {parent: 'b d', kind: simulated}}",
            ["2: nodes.b d"],  # nothing of its engine, nor that the root has none
        ),
        (
            "version: 1\nsubnets: {lab: 5}\nreach: [[lab, dmz]]\nnodes: {root: {}}\n"
            "engines: {e: {parent: root, kind: simulated}}",
            ["2: subnets.lab"],
        ),
        (
            "version: 1\nnodes: {root: {tls: {cert: 5, key: k}}}\nengines: {e: {parent: root, kind: simulated}}",
            ["2: nodes.root.tls.cert"],  # not that `key` has no `cert`
        ),
        (
            "version: 1\nnodes: {root: {}, root: {}}\nengines: {e: {parent: root, kind: vllm}}",
            ["2: nodes.root", "3: engines.e.url"],
        ),
    ],
)
def test_what_follows_from_a_wrong_field_is_left_out(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems_of(tmp_path, text) == expected


def test_files_and_secrets_are_checked_beside_wrong_fields(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(
        "version: 1\nnodes: {root: {listen: 'localhost:1', security: {api_keys: 'file:/no/keys', key: 5}}}\n"
        "engines: {e: {parent: root, kind: vllm, speed: -1, api_key: 'file:/no/key'}}\n"
    )
    ended = program("check", path)
    assert ended.status == 1
    assert [line.split(" ")[1] for line in ended.stdout.splitlines()] == [
        "nodes.root.security.key:", "nodes.root.security.api_keys:", "engines.e.speed:", "engines.e.url:",
        "engines.e.api_key:",
    ]  # fmt: skip

"""`hierarchy check`: its problems, its tables of risks, and the comparison with a running tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hierarchy.cli.check import check
from hierarchy.config.models import UnreadableConfigError
from hierarchy.engines import local
from hierarchy.errors import UsageError
from hierarchy.security.keys import create_key
from tests.cli.program import program
from tests.cluster import CALM, Cluster, wait_for_model
from tests.trees import CONFIGS


def run(*args: object, **environ: str) -> Result:
    app = typer.Typer()
    app.command()(check)
    env = {"COLUMNS": "160", **environ}
    return CliRunner().invoke(app, list(map(str, args)), env=env, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("single-node.yaml", "OK: 1 node, 2 engines, depth 1\n"),
        ("demo.yaml", "OK: 3 nodes, 2 engines, depth 2\n"),
        ("two-tiers.yaml", "OK: 3 nodes, 4 engines, depth 2\n"),
        ("three-tiers.yaml", "OK: 7 nodes, 7 engines, depth 3\n"),
        ("isolated-subnets.yaml", "OK: 3 nodes, 3 engines, depth 2\n"),
    ],
)
def test_a_valid_tree_is_one_line_and_status_0(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "check_installed", lambda: None)
    result = run(CONFIGS / name)
    assert (result.exit_code, result.stdout) == (0, line)


PREFER = """\
version: 1
nodes:
  root: {listen: "localhost:1", prefer: [siteb, e]}
engines:
  e: {parent: root, kind: simulated}
"""


def test_a_preferred_name_that_is_not_in_the_file_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(PREFER)
    result = run(path)
    assert (result.exit_code, result.stdout) == (0, "OK: 1 node, 1 engine, depth 1\n")
    what = 'nodes.root.prefer: no child of "root" in this file is called "siteb"'
    assert result.stderr.startswith(f"note: {path}:3: {what}")
    assert result.stderr.count("\n") == 1
    assert "siteb" in json.loads(run(path, "--json").stdout)["notes"][0]["what"]


TREE = """\
version: 1
nodes:
  root: {listen: "localhost:1"}
  a: {parent: root, listen: "localhost:1"}
  b: {parent: rooot, listen: "localhost:3"}
engines:
  ea: {parent: a, kind: simulated}
  eb: {parent: b, kind: vllm}
"""


def test_problems_are_a_line_each_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(TREE)
    result = run(path, COLUMNS="20")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f'{path}:4: nodes.a.listen: localhost:1 is already the address of node "root"; choose another address',
        f'{path}:5: nodes.b.parent: unknown parent "rooot"; did you mean "root"?',
        f'{path}:8: engines.eb.url: kind vllm needs a URL; add `url: "http://host:port"`',
    ]


def test_bad_fields_are_problems_as_well(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("version: 1\nnodes:\n  root: {dispatch: [red]}\n")
    result = run(path)
    assert result.exit_code == 1
    assert result.output.startswith(
        f"{path}:3: nodes.root.dispatch: unknown value a list; choose one of shortest_queue"
    )


def test_json_for_programs(tmp_path: Path) -> None:
    result = run(CONFIGS / "two-tiers.yaml", "--json")
    page = json.loads(result.stdout)
    assert (result.exit_code, page) == (
        0, {"ok": True, "problems": [], "nodes": 3, "engines": 4, "depth": 2, "notes": page["notes"]},
    )  # fmt: skip
    config = tmp_path / "tree.yaml"
    config.write_text("version: 1\nnodes:\n  root: {}\n  b: {parent: nowhere}\n")
    result = run(config, "--json")
    page = json.loads(result.stdout)
    assert (result.exit_code, page["ok"]) == (1, False)
    assert [problem["where"] for problem in page["problems"]] == [f"{config}:3", f"{config}:4", f"{config}:4"]
    with pytest.raises(UsageError, match="exclude each other"):
        run(config, "--json", "--risks")


def test_on_a_terminal_the_file_and_line_are_red(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text("version: 1\nnodes: {}\n")
    result = run(path, FORCE_COLOR="1", TERM="xterm")
    assert result.output.startswith(f"\x1b[31m{path}:2\x1b[0m: nodes: there is no node")


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableConfigError, match=r"none\.yaml: no such file; check the path"):
        run(tmp_path / "none.yaml")


def test_risks_are_tables() -> None:
    result = run(CONFIGS / "three-tiers.yaml", "--risks")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[0].startswith("Without node root everything is lost: 7 engines of speed 10.5 and 3 models.")
    assert "node oslo or link root - oslo 3 5.5 52% sim-code sim-large, sim-small" in lines
    assert "sim-code 1 0.5 oslo > oslo-2 > oslo-2-b nothing" in lines
    assert "sim-large 2 5 oslo 1 engine of speed 1 (20%)" in lines


def test_engines_whose_models_are_not_declared_are_named() -> None:
    result = run(CONFIGS / "single-node.yaml", "--risks")
    assert result.exit_code == 0
    assert "are not declared: gpu-1, gpu-2; add `models`" in result.output


def test_a_running_tree_that_agrees_and_one_that_does_not(cluster: Cluster, tmp_path: Path) -> None:
    root = cluster.node("root", settings=CALM)
    site = cluster.node("site", parents=(root.url,), engines=(cluster.engine(models=("m",)).url,), settings=CALM)
    wait_for_model(root.url, "m")
    text = f"""\
version: 1
nodes:
  root: {{listen: "{root.url.removeprefix("http://")}"}}
  site: {{parent: root, listen: "{site.url.removeprefix("http://")}"}}
engines:
  site-1: {{parent: site, kind: simulated, model: m}}
"""
    path = tmp_path / "tree.yaml"
    path.write_text(text)
    good = run(path, "--live", root.url)
    assert (good.exit_code, good.output) == (0, "OK: 2 nodes, 1 engine, depth 2; the running tree agrees\n")
    part = run(path, "--live", site.url)
    assert part.output == "OK: 2 nodes, 1 engine, depth 2; the running tree agrees (2 of 3 seen)\n"
    path.write_text(text.replace("model: m}", "model: n}") + "  e: {parent: root, kind: simulated}\n")
    bad = run(path, "--live", root.url)
    assert bad.exit_code == 1
    assert bad.output.splitlines() == [
        f"{path}:6: site-1: serves m, declared with n",
        f"{path}:7: e: declared below root, but absent",
    ]
    risks = run(path, "--live", root.url, "--risks")
    assert risks.exit_code == 1
    assert "node site or link root - site" in risks.output


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://x"])
def test_a_running_tree_that_cannot_be_read_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        run(CONFIGS / "demo.yaml", "--live", url)


def test_a_key_cannot_send_commands_to_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text('version: 1\nnodes:\n  root: {listen: "localhost:2", "x\\e[2J\\ny": 1}\n', "utf-8")
    shown = program("check", file)
    assert "x\\x1b[2J\\ny: unknown key" in shown.stdout + shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_a_key_that_nothing_can_serve_is_a_warning_with_its_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    for name, require in (("fine", {"region": "eu"}), ("value", {"region": "ue"}), ("name", {"regoin": "eu"}),
                          ("both", {"region": "us", "trust": "own"})):  # fmt: skip
        create_key(keys, name, None, require=require)
    tree = tmp_path / "tree.yaml"
    tree.write_text(f"""\
version: 1
defaults: {{security: {{api_keys: "file:{keys}"}}}}
nodes:
  root: {{listen: "localhost:1"}}
  site: {{parent: root, listen: "localhost:2", labels: {{region: eu, trust: own}}}}
engines:
  e: {{parent: site, kind: simulated}}
  f: {{parent: root, kind: simulated, labels: {{region: us}}}}
""")
    result = run(tree)
    assert result.exit_code == 0
    lines = result.stderr.replace(str(keys), "keys.yaml").splitlines()
    what = [line.removeprefix("note: keys.yaml:").partition(", so each request of ")[0] for line in lines]
    assert what == [
        "12: keys.1.require.region: nothing in the tree has region=ue",
        "17: keys.2.require.regoin: nothing in the tree has a label regoin",
        "21: keys.3.require: no child of an entry node has all of them",
    ]
    assert lines[1].endswith('did you mean "region"?')
    assert len(json.loads(run(tree, "--json").stdout)["notes"]) == 3

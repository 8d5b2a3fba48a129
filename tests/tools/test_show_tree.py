from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "tools" / "show_tree.py"
DEADLINE_S = 20.0


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("show_tree", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["show_tree"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


show_tree = load_script()


def model(name: str, api: str = "openai") -> dict[str, Any]:
    return {"name": name, "api": api, "speed": 1.0, "queue_length": 0, "slots": 4}


LIVE: dict[str, Any] = {
    "name": "root", "kind": "node", "url": "http://10.0.0.10:21001", "state": "up", "detail": "", "speed": 5.0,
    "queue_length": 7, "in_flight": 4, "models": [model("smol"), model("smol", "fastchat"), model("big/Llama-70B")],
    "future_field": {"ignored": True},
    "children": {
        "site-a": {
            "name": "site-a", "kind": "node", "url": "http://10.1.0.1:21001", "state": "up", "speed": 4.0,
            "queue_length": 6, "in_flight": 3, "models": [model("big/Llama-70B")],
            "children": {
                "a1": {"name": "a1", "kind": "vllm", "state": "up", "speed": 3.5, "queue_length": 6, "in_flight": 3,
                       "models": [model("big/Llama-70B")], "children": {}},
                "a2": {"name": "a2", "kind": "vllm", "state": "down", "detail": "connection refused"},
            },
        },
        "site-b": {"kind": "node", "link": "reverse", "state": "silent", "detail": "no report for 12 s",
                   "models": [model("old", "fastchat")]},
    },
}  # fmt: skip

TREE = """
version: 1
nodes:
  root: {listen: "127.0.0.1:21001"}
  site-a: {parent: root, listen: "127.0.0.1:21002", link: auto}
engines:
  gpu-1: {parent: site-a, kind: simulated, model: m, speed: 2}
  gpu-2: {parent: root, kind: vllm, url: "http://127.0.0.1:8000"}
"""


class Node:
    """A node that answers `GET /tree` with what the test set."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.body = json.dumps(LIVE)
        self.asked = 0


@pytest.fixture
def node() -> Iterator[Node]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            self.send_response(state.status if self.path == "/tree" else 404)
            self.end_headers()
            self.wfile.write(state.body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Node(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def run(*args: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = {"COLUMNS": str(columns), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, env=env, timeout=DEADLINE_S, check=False
    )


def words(line: str) -> list[str]:
    return line.replace("│", " ").split()


def test_a_live_tree(node: Node) -> None:
    result = run(node.url)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert [words(line)[:7] for line in lines if "●" in line or "✗" in line or "◌" in line] == [
        ["root", "●", "up", "5", "7", "4", "smol"],
        ["├─", "site-a", "●", "up", "4", "6", "3"],
        ["├─", "a1", "vllm", "●", "up", "3.5", "6"],
        ["└─", "a2", "vllm", "✗", "down", "-", "-"],
        ["└─", "site-b", "reverse", "◌", "silent", "-", "-"],
    ]
    text = " ".join(words(result.stdout))
    assert "smol (openai, fastchat), big/" in text
    assert "connection refused" in text
    assert "no report for 12 s" in text
    assert "old (fastchat)" in text
    assert "reverse: it dials the node above" in text
    assert "3 nodes · 2 engines · 2 not up" in text


def test_a_declared_tree_needs_no_network(tmp_path: Path) -> None:
    config = tmp_path / "tree.yaml"
    config.write_text(TREE)
    result = run(str(config))
    assert (result.returncode, result.stderr) == (0, "")
    assert [words(line) for line in result.stdout.splitlines() if "declared" in line] == [
        ["root", "○", "declared", "3", "m"],
        ["├─", "site-a", "auto", "○", "declared", "2", "m"],
        ["└─", "gpu-1", "simulated", "○", "declared", "2", "m"],
        ["└─", "gpu-2", "vllm", "○", "declared", "1", "-"],
    ]


def test_json_has_the_same_shape_for_both(tmp_path: Path, node: Node) -> None:
    assert json.loads(run(node.url, "--json").stdout) == LIVE
    config = tmp_path / "tree.yaml"
    config.write_text(TREE)
    tree = json.loads(run(str(config), "--json").stdout)
    assert set(tree) >= {
        "name",
        "kind",
        "url",
        "state",
        "detail",
        "speed",
        "queue_length",
        "in_flight",
        "models",
        "children",
    }
    gpu = tree["children"]["site-a"]["children"]["gpu-1"]
    assert (gpu["kind"], gpu["state"], gpu["speed"], gpu["children"]) == ("simulated", "declared", 2, {})
    assert (gpu["models"][0]["name"], gpu["models"][0]["api"]) == ("m", "openai")


@pytest.mark.parametrize(("name", "start"), [("dot", "digraph"), ("mermaid", "flowchart"), ("svg", "<svg")])
def test_pictures_for_other_programs(node: Node, name: str, start: str) -> None:
    result = run(node.url, "--format", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(start)
    assert "site-a" in result.stdout


def test_addresses_where_there_is_room(node: Node) -> None:
    assert "http://10.1.0.1:21001" in run(node.url, columns=120).stdout
    assert "http://10.1.0.1:21001" not in run(node.url).stdout


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["127.0.0.1:1"], 2, "cannot reach http://127.0.0.1:1"),
        (["ftp://a"], 2, "not an http URL"),
        (["/nonexistent.yaml"], 2, "/nonexistent.yaml"),
        (["127.0.0.1:1", "--json", "--watch"], 2, "exclude each other"),
        (["127.0.0.1:1", "--watch"], 2, "cannot reach"),
        (["127.0.0.1:1", "--format", "svg", "--json"], 2, "--format is for one picture"),
        (["127.0.0.1:1", "--format", "png"], 2, "--format png: choose text, dot, mermaid, svg"),
    ],
)
def test_what_cannot_be_read_is_one_line(args: list[str], status: int, message: str) -> None:
    result = run(*args)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, "", "answered 404"),
        (200, "<html>", "not JSON"),
        (200, "[]", "a JSON object was expected"),
        (200, "[" * 99999, "not JSON"),
    ],
)
def test_what_is_no_node_is_one_line(node: Node, status: int, body: str, message: str) -> None:
    node.status, node.body = status, body
    result = run(node.url)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_all_problems_of_a_file(tmp_path: Path) -> None:
    config = tmp_path / "tree.yaml"
    config.write_text(
        TREE.replace("parent: site-a", "parent: nowhere").replace("parent: root, kind", "parent: lost, kind")
    )
    result = run(str(config))
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "lost" in result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())


def test_watch_draws_again_until_ctrl_c(node: Node) -> None:
    command = [sys.executable, str(SCRIPT), node.url, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = threading.Event()
        for _ in range(int(DEADLINE_S / 0.02)):
            if node.asked >= 3:
                break
            deadline.wait(0.02)
        node.status = 500  # it keeps the last picture, and says so
        asked = node.asked
        for _ in range(int(DEADLINE_S / 0.02)):
            if node.asked >= asked + 3:
                break
            deadline.wait(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    assert "site-a" in out
    assert "answered 500" in out


def test_a_hostile_tree_is_harmless() -> None:
    entry = {"name": "a\x1b[2J\n[red]", "state": "up\r", "detail": "\x07", "models": [{"name": "m\n[/]"}], "url": 7}
    plain = show_tree.draw(entry, 80).plain
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", plain)
    assert "a\\x1b[2J\\n[red]" in plain


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["name", "kind", "url", "state", "detail", "speed", "queue_length", "in_flight", "models", "children"]
entries = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), json_values),
    lambda inner: st.builds(
        lambda entry, children: entry | {"children": children},
        st.dictionaries(st.sampled_from(FIELDS), json_values),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(entries, st.integers(40, 200))
def test_any_json_object_can_be_drawn(entry: dict[str, Any], width: int) -> None:
    assert show_tree.draw(entry, width).plain.count("\n") >= 3


def test_a_deep_tree_is_drawn_to_a_limit() -> None:
    entry: dict[str, Any] = {}
    for _ in range(500):
        entry = {"children": {"x": entry}}
    assert len(list(show_tree.rows(entry))) == show_tree.MAX_DEPTH + 1


@pytest.mark.parametrize("width", [70, 80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    *lines, _legend = show_tree.draw(LIVE, width).plain.split("\n")
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([model("a"), model("a", "fastchat"), model("b", "fastchat")], ["a (openai, fastchat)", "b (fastchat)"]),
        ([{"name": "a"}, "nonsense", {}], ["a"]),
        (None, []),
    ],
)
def test_model_names(models: object, names: list[str]) -> None:
    assert show_tree.model_names(models) == names

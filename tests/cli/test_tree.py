"""`hierarchy tree`, and `tools/show_tree.py`, which is the same command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hierarchy.cli import main
from tests.cli.http_server import QuietHandler, http_server
from tests.topology.drawing.trees import LIVE

SCRIPT = Path(__file__).parents[2] / "tools" / "show_tree.py"
DEADLINE_S = 20.0

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
    """A server whose response to `GET /tree` the test sets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.body = json.dumps(LIVE)
        self.requests = 0


@pytest.fixture
def node() -> Iterator[Node]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
            state.requests += 1
            self.send_response(state.status if self.path == "/tree" else 404)
            self.end_headers()
            self.wfile.write(state.body.encode())

    with http_server(Handler) as url:
        state = Node(url)
        yield state


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `hierarchy tree` in this process, in a terminal of `columns`."""

    def run_tree(*args: str, columns: int = 80) -> Result:
        monkeypatch.setattr(sys, "argv", ["hierarchy", "tree", *args])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return Result(int(ended.value.code or 0), output.out, output.err)

    return run_tree


def cells(line: str) -> list[str]:
    return line.replace("│", " ").split()


def test_a_live_tree(node: Node, run: Run) -> None:
    result = run(node.url)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert [cells(line)[:7] for line in lines if "●" in line or "✗" in line or "◌" in line] == [
        ["root", "●", "up", "5", "7/4", "4", "smol"],
        ["├─", "site-a", "●", "up", "4", "6/4", "3"],
        ["├─", "a1", "vllm", "●", "up", "3.5", "6/4"],
        ["└─", "a2", "vllm", "✗", "down", "-", "-"],
        ["└─", "site-b", "reverse", "◌", "silent", "-", "-"],
    ]
    text = " ".join(cells(result.stdout))
    assert "smol (openai, fastchat), big/" in text
    assert "connection refused" in text
    assert "no report for 12 s" in text
    assert "old (fastchat)" in text
    assert "reverse: it dials the node above" in text
    assert "3 nodes · 2 engines · 2 not up" in text


def test_a_declared_tree_needs_no_network(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "tree.yaml"
    config.write_text(TREE)
    result = run(str(config))
    assert (result.returncode, result.stderr) == (0, "")
    assert [cells(line) for line in result.stdout.splitlines() if "declared" in line] == [
        ["root", "○", "declared", "3", "m"],
        ["├─", "site-a", "auto", "○", "declared", "2", "m"],
        ["└─", "gpu-1", "simulated", "○", "declared", "2", "m"],
        ["└─", "gpu-2", "vllm", "○", "declared", "1", "-"],
    ]


def test_json_has_the_same_shape_for_both(tmp_path: Path, node: Node, run: Run) -> None:
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
def test_pictures_for_other_programs_are_drawn(node: Node, name: str, start: str, run: Run) -> None:
    result = run(node.url, "--format", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(start)
    assert "site-a" in result.stdout


def test_addresses_are_shown_where_there_is_room(node: Node, run: Run) -> None:
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
        (["127.0.0.1:1", "--format", "svg", "--json"], 2, "--format draws one picture"),
        (["127.0.0.1:1", "--format", "png"], 2, "--format png: choose text, dot, mermaid, svg"),
    ],
)
def test_an_error_is_one_line(args: list[str], status: int, message: str, run: Run) -> None:
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
def test_the_error_for_another_servers_response_is_one_line(
    node: Node, status: int, body: str, message: str, run: Run
) -> None:
    node.status, node.body = status, body
    result = run(node.url)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_all_problems_of_a_file_are_shown(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "tree.yaml"
    config.write_text(
        TREE.replace("parent: site-a", "parent: nowhere").replace("parent: root, kind", "parent: lost, kind")
    )
    result = run(str(config))
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "lost" in result.stderr
    assert result.stderr.startswith("hierarchy: ")
    assert result.stderr.count("tree.yaml:") == result.stderr.count("\n") == 3


def wait_for(requests: int, node: Node) -> None:
    waiting = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        if node.requests >= requests:
            return
        waiting.wait(0.02)


def test_watch_draws_again_until_ctrl_c(node: Node) -> None:
    command = [sys.executable, "-m", "hierarchy", "tree", node.url, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(3, node)
        node.status = 500  # the last picture stays, with the error below it
        wait_for(node.requests + 3, node)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    assert "site-a" in out
    assert "answered 500" in out


def test_watch_into_a_pipe_prints_each_picture_as_it_comes(node: Node) -> None:
    command = [sys.executable, "-m", "hierarchy", "tree", node.url, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pictures = 0
        for line in process.stdout:  # while it runs, with nothing that makes it end
            pictures += "root" in line
            if pictures == 3:
                break
        process.stdout.close()  # as `| head` does
        assert process.stderr is not None
        assert process.wait(timeout=DEADLINE_S) == 1
        assert process.stderr.read() == ""


def test_the_script_is_the_same_command(node: Node) -> None:
    env = {"COLUMNS": "80", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"}
    command = [sys.executable, str(SCRIPT), node.url]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=DEADLINE_S, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 nodes · 2 engines · 2 not up" in result.stdout

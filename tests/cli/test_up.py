"""`hierarchy up`: signals, restarts, and its output."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.cli.supervise import Console
from hierarchy.cli.up import serve_command, up
from hierarchy.config.models import ConfigError
from tests.security.keyed import Keys
from tests.support import eventually, free_port

DEADLINE_S = 20.0

TREE = """
version: 1
defaults: {grace_s: 0.2, log_format: FORMAT}
nodes:
  root: {listen: "127.0.0.1:21001"}
  site-a: {parent: root, listen: "127.0.0.1:21002"}
engines:
  gpu: {parent: site-a, kind: simulated, model: m}
"""

# Runs `up` with other processes as its nodes: {nodes} maps a name to the code of its process.
LAUNCHER = """
import sys, typer
from hierarchy.cli import up as module
nodes = {nodes!r}
module.serve_command = lambda config, name: [sys.executable, "-c", nodes[name]]
typer.run(module.up)
"""

STAYS = "import sys, time; print('ready', flush=True); sys.stdin.read()"
FINISHES = """
import signal, sys
def finish(*_): print('finished its streams', flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print('ready', flush=True)
sys.stdin.read()
"""
IGNORES = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', os.getpid(), flush=True)
time.sleep(60)
"""


class Up:
    """A running `up`, and its output so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """Wait for `pattern` in the output, with a deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while (match := re.search(pattern, self.output, re.M)) is None:
            assert self._read_more(deadline), f"{pattern!r} never came; got:\n{self.output}"
        return match

    def ends(self) -> int:
        """Wait for its end. Returns the exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read_more(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read_more(self, deadline: float) -> bool:
        assert self.process.stderr is not None
        fd = self.process.stderr.fileno()
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(fd, 65536) if ready else b""
        self.output += data.decode()
        return bool(data)


@contextmanager
def run_up(tmp_path: Path, nodes: dict[str, str], *args: str, format: str = "text", **options: Any) -> Iterator[Up]:
    """`up` with these processes as its nodes. options: of `subprocess.Popen`."""
    config = tmp_path / "tree.yaml"
    config.write_text(TREE.replace("FORMAT", format))
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER.format(nodes=nodes), str(config), *args],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    try:
        yield Up(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_all_nodes_finish(tmp_path: Path, number: signal.Signals) -> None:
    with run_up(tmp_path, {"root": FINISHES, "site-a": FINISHES}) as tree:
        tree.read_until(r"^root   │ ready$")
        tree.read_until(r"^site-a │ ready$")
        tree.process.send_signal(number)
        assert tree.ends() == 0
    assert re.search(r"^root   │ finished its streams$", tree.output, re.M)
    assert re.search(r"^site-a │ finished its streams$", tree.output, re.M)
    assert re.search(r"^up     │ \d\d:\d\d:\d\d INFO ended all 2 nodes$", tree.output, re.M)


def test_a_hangup_without_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    with run_up(tmp_path, {"root": FINISHES, "site-a": FINISHES}) as tree:
        tree.read_until(r"root +│ ready")
        tree.process.send_signal(signal.SIGHUP)
        tree.read_until("a hangup ends nothing: each node reads")
        tree.process.send_signal(signal.SIGHUP)
        tree.process.terminate()
        assert tree.ends() == 0
    assert "killing all" not in tree.output


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_closed_terminal_ends_the_tree_unless_it_runs_under_nohup(tmp_path: Path, ignored: bool) -> None:
    ours, its = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with run_up(tmp_path, {"root": FINISHES, "site-a": FINISHES}, preexec_fn=take_terminal, pass_fds=(its,)) as tree:
        os.close(its)
        tree.read_until(r"root +│ ready")
        tree.read_until(r"site-a +│ ready")
        os.close(ours)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                tree.process.wait(0.5)
            tree.process.terminate()
        assert tree.ends() == 0
    assert len(re.findall("finished its streams", tree.output)) == 2


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    with run_up(tmp_path, {"root": IGNORES, "site-a": FINISHES}) as tree:
        pid = int(tree.read_until(r"root +│ ready (\d+)")[1])
        tree.process.send_signal(signal.SIGINT)
        tree.read_until("another Ctrl-C kills them")
        tree.process.send_signal(signal.SIGINT)
        assert tree.ends() == 0
        assert "killing all that still run" in tree.output
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_node_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LAUNCHER.replace("typer.run", "module._MARGIN_S = 0\ntyper.run")
    monkeypatch.setattr(sys.modules[__name__], "LAUNCHER", launcher)
    with run_up(tmp_path, {"root": IGNORES, "site-a": STAYS}) as tree:
        pid = int(tree.read_until(r"root +│ ready (\d+)")[1])
        tree.process.send_signal(signal.SIGTERM)
        assert tree.ends() == 0
        assert "WARNING root did not end within 0.2 s, killing it" in tree.output
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_node_that_dies_is_restarted(tmp_path: Path) -> None:
    with run_up(tmp_path, {"root": "import os\n" + STAYS.replace("'ready'", "os.getpid()"), "site-a": STAYS}) as tree:
        pid = int(tree.read_until(r"root +│ (\d+)$")[1])
        os.kill(pid, signal.SIGKILL)
        tree.read_until(r"up +│ .* WARNING root was ended by SIGKILL after")
        tree.read_until(rf"root +│ (?!{pid}$)\d+$")
        tree.process.terminate()
        assert tree.ends() == 0


def test_a_node_that_cannot_start_ends_the_rest_with_status_2(tmp_path: Path) -> None:
    taken = "import sys; print('port 21001 is taken', file=sys.stderr); sys.exit(2)"
    with run_up(tmp_path, {"root": taken, "site-a": FINISHES}) as tree:
        assert tree.ends() == 2
    assert re.search(r"^root   │ port 21001 is taken$", tree.output, re.M)
    assert "root ended with status 2 (it cannot start as configured)" in tree.output
    assert "ended all 2 nodes" in tree.output


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    with run_up(tmp_path, {"root": FINISHES, "site-a": FINISHES}, "--exit-with-parent") as tree:
        tree.read_until(r"root +│ ready")
        assert tree.process.stdin is not None
        tree.process.stdin.close()
        assert tree.ends() == 0


def test_json_lines_pass_unchanged_and_others_are_wrapped(tmp_path: Path) -> None:
    line = json.dumps({"node": "root", "message": "structured"})
    root = f"import sys; print({line!r}); print('plain %s', flush=True); sys.stdin.read()"
    with run_up(tmp_path, {"root": root, "site-a": FINISHES}, format="json") as tree:
        tree.read_until("plain %s")
        tree.process.terminate()
        assert tree.ends() == 0
    records = [json.loads(line) for line in tree.output.splitlines()]
    assert {"node": "root", "message": "structured"} in records
    assert [record["node"] for record in records if record["message"] == "plain %s"] == ["root"]
    assert any(record["node"] == "up" and record["message"] == "ended all 2 nodes" for record in records)


@pytest.mark.parametrize("text", ["version: 1\nnodes: {a: {parent: b}}\n", "nodes: [", None])
def test_a_wrong_file_is_refused(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "tree.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(ConfigError, match=r"tree\.yaml"):
        up(config)


def test_the_command_that_starts_a_node() -> None:
    command = serve_command(Path("configs/demo.yaml"), "root")
    assert command[0] == sys.executable
    assert command[1:] == ["-m", "hierarchy", "serve", "configs/demo.yaml", "--node", "root", "--exit-with-parent"]


def test_the_console_aligns_and_colours_lines() -> None:
    written: list[str] = []
    console = Console(written.append, ["root", "site-a"], "text", colour=True)
    console.on_line("root", "12:31:04 WARNING root: slow")
    console.on_line("site-a", "a traceback\x1b[2J")
    console.write("12:31:05 INFO up: two\n")
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in written]
    assert plain == [
        "root   │ 12:31:04 WARNING slow\n",
        "site-a │ a traceback\\x1b[2J\n",
        "up     │ 12:31:05 INFO two\n",
    ]
    assert "\x1b[33mWARNING\x1b[0m" in written[0]
    assert written[0].split("root")[0] != written[1].split("site-a")[0]


KEYED = """\
version: 1
defaults: {{grace_s: 0.2, probe_interval_s: 0.1, report_interval_s: 0.1}}
nodes:
  root: {{listen: "127.0.0.1:{root}", security: {{key: "{key}"}}}}
  site: {{parent: root, listen: "127.0.0.1:{site}", security: {{key: "{key}", join_token: "file:/no/token"}}}}
  rack: {{parent: site, listen: "127.0.0.1:{rack}", link: reverse}}
engines:
  gpu: {{parent: rack, kind: simulated, model: m}}
"""


def models(port: int) -> list[str]:
    try:
        return [model["id"] for model in httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]]
    except httpx.HTTPError:
        return []


def test_the_nodes_of_a_tree_with_keys_join_with_tokens_of_this_run(tmp_path: Path) -> None:
    keys, ports = Keys(tmp_path), {name: free_port() for name in ("root", "site", "rack")}
    config = tmp_path / "tree.yaml"
    config.write_text(KEYED.format(key=keys.spec()["key"], **ports))
    folders = {name: str(tmp_path / name) for name in ("XDG_STATE_HOME", "TMPDIR")}
    (tmp_path / "TMPDIR").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "hierarchy", "up", str(config)],
        stderr=subprocess.PIPE,
        env={**os.environ, **folders},
        start_new_session=True,
    )
    tree = Up(process)
    try:
        eventually(lambda: models(ports["root"]) == ["m"], "the rack to join below the site", 60)
        for name in ("rack", "site"):
            pid = tree.read_until(rf"^{name} +│ .*Started server process \[(\d+)\]")[1]
            os.kill(int(pid), signal.SIGKILL)
            tree.read_until(rf"(?s)^up +│ [^\n]*{name} was ended by SIGKILL.*^{name} +│ [^\n]* registered with")
            eventually(lambda: models(ports["root"]) == ["m"], "it to join again", 60)
        process.terminate()
        assert tree.ends() == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert "token is required" not in tree.output
    assert list((tmp_path / "TMPDIR").iterdir()) == [], "tokens and credentials are gone with the run"
    state = tmp_path / "XDG_STATE_HOME" / "hierarchy"
    assert list(state.rglob("credential")) == [], "a credential of another run is neither used nor replaced"

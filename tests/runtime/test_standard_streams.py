"""A process that was started without standard streams: no file or socket takes their numbers."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support import eventually, free_port

ROOT = Path(__file__).parents[2]
ENGINE = "openai=http://127.0.0.1:1"


def without(closed: str, *arguments: str) -> list[str]:
    """The command, started by a shell that has closed some descriptors. closed: as in the shell, such as `2>&-`."""
    return ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "hierarchy", *arguments]


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "message"),
    [
        (">&-", ["tree", "configs/two-tiers.yaml"], 1, "hierarchy: cannot write the output: Bad file descriptor\n"),
        (">&-", ["--version"], 1, "hierarchy: cannot write the output: Bad file descriptor\n"),
        ("<&-", ["chat", "http://127.0.0.1:1"], 2, "hierarchy: no question: give it as an argument or on stdin\n"),
        ("2>&-", ["nothing"], 2, ""),
        ("<&- >&- 2>&-", ["schema"], 1, ""),
    ],
)
def test_a_command_without_standard_streams_has_no_traceback(
    closed: str, arguments: list[str], status: int, message: str
) -> None:
    done = subprocess.run(
        without(closed, *arguments), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", message)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")
def test_a_node_without_standard_streams_writes_log_lines_to_no_connection(tmp_path: Path) -> None:
    port = free_port()
    command = without("<&- >&- 2>&-", "serve", "--node", "n", "--port", str(port), "--engine", ENGINE)
    node = subprocess.Popen(command, cwd=tmp_path)

    def responds() -> bool:
        assert node.poll() is None, shlex.join(command)
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(responds, "the node to listen", 60.0)
        assert [str(Path(f"/proc/{node.pid}/fd/{fd}").readlink()) for fd in range(3)] == ["/dev/null"] * 3
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()

"""Other routers, for comparison. pip installs each into its own environment in build/bench/.

The versions are pinned to those that were tried, so that a run can be repeated.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import KEY
from bench.testbed import HOST, MODEL, ROOT, BenchError, Process, Target, TestBed, free_port, target

CACHE = ROOT / "build" / "bench"
INSTALL_DEADLINE_S = 600.0
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "LITELLM_MASTER_KEY": KEY,
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it downloads prices at its start
}

#: (its bin/, port, URLs of the engines, a temporary folder) → argv
Command = Callable[[Path, int, Sequence[str], Path], list[object]]


@dataclass(frozen=True)
class Peer:
    """A router on PyPI and the command that starts it, with its own defaults except for the policy."""

    name: str
    requirement: str
    command: Command


def _vllm_router(bin_: Path, port: int, engines: Sequence[str], folder: Path) -> list[object]:
    flags = ["--host", HOST, "--port", port, "--policy", "round_robin", "--prometheus-port", free_port()]
    return [bin_ / "vllm-router", *flags, "--log-level", "warning", "--worker-urls", *engines]


def _sglang_router(bin_: Path, port: int, engines: Sequence[str], folder: Path) -> list[object]:
    flags = ["--host", HOST, "--port", port, "--policy", "round_robin", "--prometheus-port", free_port()]
    launch = [bin_ / "python", "-m", "sglang_router.launch_router"]
    return [*launch, *flags, "--log-level", "warn", "--worker-urls", *engines]


def _litellm(bin_: Path, port: int, engines: Sequence[str], folder: Path) -> list[object]:
    config = folder / f"litellm-{port}.yaml"
    entries = "".join(
        f"  - model_name: {MODEL}\n    litellm_params: "
        f"{{model: openai/{MODEL}, api_base: {engine}/v1, api_key: none}}\n"
        for engine in engines
    )
    config.write_text(f"model_list:\n{entries}")
    return [bin_ / "litellm", "--config", config, "--host", HOST, "--port", port]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("vllm-router", "vllm-router==0.1.17", _vllm_router),
        Peer("sglang-router", "sglang-router==0.3.2", _sglang_router),
        Peer("litellm", "litellm[proxy]==1.106.0", _litellm),
    )
}


async def install(peer: Peer) -> Path:
    """Install the peer unless it is already installed. Returns the bin folder of its environment.

    Raises:
        BenchError: pip failed; has the last line of its output.
    """
    folder = CACHE / peer.requirement.replace("[", "-").replace("]", "").replace("==", "-")
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _run(peer, sys.executable, "-m", "venv", folder)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        await _run(peer, *pip, "--only-binary", ":all:", peer.requirement)
        done.touch()
    return folder / "bin"


async def _run(peer: Peer, *argv: object) -> None:
    process = await asyncio.create_subprocess_exec(
        *map(str, argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), INSTALL_DEADLINE_S)
    except TimeoutError:
        raise BenchError(f"{peer.requirement} was not installed within {INSTALL_DEADLINE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
        raise BenchError(f"{peer.requirement} cannot be installed: {lines[-1] if lines else 'pip printed nothing'}")


async def start(testbed: TestBed, peer: Peer, engines: Sequence[Process]) -> Target:
    """Install it if necessary, start it, and wait until it responds. Raises BenchError."""
    bin_ = await install(peer)
    port = free_port()
    argv = peer.command(bin_, port, [engine.url for engine in engines], testbed.folder)
    started = target(peer.name, testbed.start(peer.name, argv, port, ENVIRONMENT))
    await testbed.ready([started])
    return started

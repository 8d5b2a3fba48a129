"""Ctrl-C while a command is still importing: it ends at once, by the signal, and prints nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hierarchy.cli.interrupts import end_at_once, raise_keyboard_interrupt
from tests.trees import CONFIGS

ROOT = Path(__file__).parents[2]
TREE = str(CONFIGS / "two-tiers.yaml")

#: a module that Python imports by itself at its start: Ctrl-C comes when the module CTRL_C_AT is imported
SITE = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["CTRL_C_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("hierarchy.cli.program", ["--help"]),
        ("typer", ["--help"]),
        ("typer.rich_utils", ["tree", "--help"]),
        ("pydantic", ["check", TREE]),
        ("hierarchy.config.models", ["check", TREE]),
        ("httpx", ["tree", "http://127.0.0.1:1"]),
        ("hierarchy.node", ["serve"]),
        ("fastapi", ["serve", TREE, "--node", "root"]),
        ("hierarchy.security.access", ["up", TREE]),
        ("hierarchy.engines.simulated.app", ["engine", "simulated", "--port", "0"]),
    ],
)
def test_ctrl_c_during_an_import_ends_the_command_without_a_word(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    ended = subprocess.run(
        [sys.executable, "-m", "hierarchy", *arguments],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "CTRL_C_AT": module},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert lines == []
    assert ended.returncode in (-signal.SIGINT, 0)  # 0: of the simulated engine, which has its own handler by then


def test_a_command_that_has_to_finish_something_gets_the_exception() -> None:
    before = signal.getsignal(signal.SIGINT)
    with end_at_once():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt), raise_keyboard_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with end_at_once(), raise_keyboard_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

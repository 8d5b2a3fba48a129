"""Runs the tutorial on three sites behind firewalls: each command, as typed, on the machine that the page names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.subnets.network import Network, obstacle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "three-sites.md"
MACHINES = {"client": ("dmz", 99), "root": ("dmz", 10)} | {
    name: (subnet, 1) for name, subnet in (("site-a", "site-a"), ("site-b", "site-b"), ("site-c", "rack"))
}
SUBNETS = ("dmz", "site-a", "site-b", "rack")
START_S, COMMAND_S = 30.0, 60.0


def steps(page: str) -> Iterator[tuple[str, str, str]]:
    """(machine, kind, text) of each block: `sh` runs on the machine that the text before it names last."""
    machine = ""
    for before, kind, block in re.findall(r"(.*?)^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE):
        named = re.findall(r"[Oo]n \*\*([a-z-]+)\*\*", before)
        machine = named[-1] if named else machine
        yield machine, kind, block


class Machines:
    """Runs shell commands in the network. home: a folder for each machine's files."""

    def __init__(self, network: Network, home: Path) -> None:
        self._network = network
        self._home = home
        self._folders: dict[str, Path] = {}
        self.logs: dict[str, Path] = {}
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        self._exports: dict[str, list[str]] = {name: [] for name in MACHINES}  # of a machine's terminal
        for name in MACHINES:
            self._folders[name] = home / name
            self._folders[name].mkdir()
        self._write_commands()

    def _write_commands(self) -> None:
        """`hierarchy` is the one under test, and `scp` copies between the machines' folders."""
        folder = self._home / "bin"
        folder.mkdir()
        copy = f'for to; do :; done; case "$to" in root:*) to={self._folders["root"]}/hierarchy/;; *) '
        copy += f'to={self._home}/${{to%:}}/;; esac; while [ $# -gt 1 ]; do cp -p "$1" "$to"; shift; done\n'
        commands = {"hierarchy": f'exec {sys.executable} -m hierarchy "$@"\n', "scp": copy}
        for name, text in commands.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}")
            (folder / name).chmod(0o755)

    def _environment(self, machine: str) -> list[str]:
        home = self._home / machine
        path = f"{self._home / 'bin'}:{os.environ['PATH']}"
        fixed = {"HOME": home, "PATH": path, "PYTHONPATH": ROOT, "NO_COLOR": "1", "COLUMNS": "120"}
        return ["env", "-u", "XDG_STATE_HOME", *(f"{name}={value}" for name, value in fixed.items())]

    def run(self, machine: str, block: str) -> str:
        """Type a block of commands; a `serve` stays in the background. Returns what it printed."""
        folder = self._home / machine
        if machine == "root" and (folder / "hierarchy").exists():
            folder /= "hierarchy"
        serves = block.startswith("hierarchy serve")
        # A node takes the shell's place, so that the process that the network kills at the end is the node itself.
        last = f"exec {block}" if serves else block
        script = "\n".join([f"cd {folder}", *self._exports[machine], last])
        self._exports[machine] += re.findall(r"^export .*", block, flags=re.MULTILINE)
        command = [*self._environment(machine), "sh", "-ec", script]
        if serves:
            self._serve(machine, command)
            return ""
        process = self._network.start(machine, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=COMMAND_S)
        assert process.returncode == 0, f"on {machine}:\n{block}\n{output}"
        return output

    def _serve(self, machine: str, command: list[str]) -> None:
        log = self.logs[machine] = self._home / f"{machine}.log"
        with log.open("a") as file:
            self.nodes[machine] = self._network.start(machine, command, stdout=file, stderr=subprocess.STDOUT)
        self.wait(machine, "listens on" if machine == "root" else "link reverse")
        if machine != "root":
            self.wait(machine, "is up at")

    def wait(self, machine: str, text: str) -> None:
        """Until a node has logged it."""
        deadline = time.monotonic() + START_S
        while text not in self.logs[machine].read_text():
            assert self.nodes[machine].poll() is None, self.logs[machine].read_text()
            assert time.monotonic() < deadline, f"{machine} has not logged {text!r}:\n{self.logs[machine].read_text()}"
            time.sleep(0.05)


@pytest.mark.slow  # some thirty programs are started one after another
def test_every_command_of_the_page_works_as_typed(tmp_path: Path) -> None:
    if reason := obstacle():
        pytest.skip(reason)
    outputs: list[str] = []
    routers = {"border": dict.fromkeys(SUBNETS, 254)}
    with Network(MACHINES, routers, dict.fromkeys(SUBNETS, "border")) as network:
        network.allow({(site, "dmz") for site in SUBNETS[1:]})
        machines = Machines(network, tmp_path)
        for machine, kind, block in steps(PAGE.read_text("utf-8")):
            if kind == "yaml":
                (tmp_path / "root" / "hierarchy" / "tree.yaml").write_text(block)
            elif kind == "sh":
                if "hierarchy tree" in block:
                    time.sleep(3)  # until the reports of all sites have arrived
                outputs.append(machines.run(machine, block))
        machines.wait("root", "site-c")
        refused = machines.logs["root"].read_text()
    said = "\n".join(outputs)
    assert "OK: 4 nodes, 4 engines, depth 2" in said
    assert "the running tree agrees" in said
    assert "via site-c/c-1" in said
    assert re.search(r"via site-[ab]/", said)
    assert '"served_by":["site-c/c-1"]' in said
    assert "invalid_api_key" in said
    assert "site-c" in refused.splitlines()[-1]

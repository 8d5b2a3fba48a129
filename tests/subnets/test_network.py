"""The network itself: it is what the other tests take it for, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.subnets.network import MACHINES, PREFIX, SUBNETS, Network, address


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_has_routes_to_its_neighbours_alone(network: Network, machine: str) -> None:
    near = {"dmz": {"site-a", "site-b"}, "site-a": {"dmz", "site-b", "rack"}, "site-b": {"dmz", "site-a"}}
    near["rack"] = {"site-a"}
    own = MACHINES[machine][0]
    routes = {line.split()[0] for line in ip("-n", network.namespace(machine), "route").splitlines()}
    assert routes == {f"{SUBNETS[subnet]}.0/24" for subnet in {own} | near[own]}


def test_nothing_of_it_stays(namespaces: None) -> None:
    devices = ip("-br", "link")
    network = Network()
    sleeping: list[subprocess.Popen[str]] = []

    def interrupted() -> None:
        with network:
            names = ip("netns", "list").split()
            assert {network.namespace(machine) for machine in MACHINES} < set(names)
            assert ip("-br", "link") == devices
            command = [sys.executable, "-c", "import time; time.sleep(60)"]
            sleeping.extend(network.start(machine, command) for machine in MACHINES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(sleeping) == len(MACHINES)
    assert all(process.returncode is not None for process in sleeping)
    assert not any(name.startswith(network.namespace("")) for name in ip("netns", "list").split())
    assert ip("-br", "link") == devices


def test_what_a_killed_run_has_left_is_removed_by_the_next(namespaces: None) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, own = f"{PREFIX}-{dead.pid}-0000-root", f"{PREFIX}-{os.getpid()}-0000-root"
    for name in (left, own):
        ip("netns", "add", name)
    try:
        with Network():
            names = ip("netns", "list").split()
        assert left not in names
        assert own in names
    finally:
        ip("netns", "del", own)


def test_a_cut_is_felt_and_mended(network: Network) -> None:
    there = f"{address('root')}:9"
    network.open([("site-a", "dmz"), ("site-b", "dmz")])

    def felt() -> list[str]:
        return [verdicts[there] for verdicts in network.dial({"site-a": [there], "site-b": [there]}).values()]

    assert felt() == ["refused", "refused"]
    with network.unplugged("site-a"), network.muted("dmz", "site-b"):
        assert set(felt()) <= {"silent", "no such host"}
    assert felt() == ["refused", "refused"]

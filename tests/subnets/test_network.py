"""The test network: it is as the other tests expect, and is removed completely."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.subnets.network import MACHINES, PREFIX, SUBNETS, Network, address

pytestmark = pytest.mark.slow


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_has_routes_only_to_subnets_one_router_away(network: Network, machine: str) -> None:
    near = {"dmz": {"site-a", "site-b"}, "site-a": {"dmz", "site-b", "rack"}, "site-b": {"dmz", "site-a"}}
    near["rack"] = {"site-a"}
    own = MACHINES[machine][0]
    routes = {line.split()[0] for line in ip("-n", network.namespace(machine), "route").splitlines()}
    assert routes == {f"{SUBNETS[subnet]}.0/24" for subnet in {own} | near[own]}


def test_the_network_is_removed_completely(namespaces: None) -> None:
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


def test_the_namespaces_of_a_killed_run_are_removed_by_the_next_run(namespaces: None) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover, own = f"{PREFIX}-{dead.pid}-0000-root", f"{PREFIX}-{os.getpid()}-0000-root"
    for name in (leftover, own):
        ip("netns", "add", name)
    try:
        with Network():
            names = ip("netns", "list").split()
        assert leftover not in names
        assert own in names
    finally:
        ip("netns", "del", own)


def test_a_cut_has_an_effect_until_it_ends(network: Network) -> None:
    target = f"{address('root')}:9"
    network.allow([("site-a", "dmz"), ("site-b", "dmz")])

    def dial() -> list[str]:
        return [results[target] for results in network.dial({"site-a": [target], "site-b": [target]}).values()]

    assert dial() == ["refused", "refused"]
    with network.unplugged("site-a"), network.blackholed("dmz", "site-b"):
        assert set(dial()) <= {"silent", "no such host"}
    assert dial() == ["refused", "refused"]

"""A network for tests, on real TCP: machines, routers and firewalls as Linux network namespaces.

    client  root                        dmz     10.0.0.0/24
        └────┴──── border               a router between three subnets
                   ├── site-a  gpu-a    site-a  10.1.0.0/24
                   │      └── inner     a router between two
                   │            └── rack  gpu-rack    rack  10.3.0.0/24
                   └── site-b  gpu-b    site-b  10.2.0.0/24

Each router's firewall drops new connections that were not allowed, and lets replies pass. A machine has routes only to
its own subnet and to those one router away: there is none between the dmz and the rack, and no default route. All
devices are created inside the namespaces, so the host sees only the namespaces' names, which are unique to a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.skips import missing

Pairs = Iterable[tuple[str, str]]  #: (from, to): subnets between which a connection may be opened

SUBNETS = {"dmz": "10.0.0", "site-a": "10.1.0", "site-b": "10.2.0", "rack": "10.3.0"}  #: each is a /24
MACHINES = {  #: name: (subnet, last number of its address)
    "client": ("dmz", 99),
    "root": ("dmz", 10),
    "site-a": ("site-a", 1),
    "gpu-a": ("site-a", 11),
    "site-b": ("site-b", 1),
    "gpu-b": ("site-b", 11),
    "rack": ("rack", 1),
    "gpu-rack": ("rack", 11),
}
ROUTERS = {  #: name: {subnet: last number of its address there}
    "border": {"dmz": 254, "site-a": 254, "site-b": 254},
    "inner": {"site-a": 253, "rack": 254},
}
#: name of a subnet: the router whose bridge is the subnet's switch
SWITCHES = {"dmz": "border", "site-a": "border", "site-b": "border", "rack": "inner"}

RULESET = """\
flush ruleset
table inet firewall {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        {rules}
    }}
    chain input {{
        type filter hook input priority 0; policy drop;
    }}
}}
"""
PREFIX = "hier"
INSIDE = Path(__file__).parent / "agent.py"
COMMAND_TIMEOUT_S = 10.0


def address(machine: str) -> str:
    """The IP address of a machine."""
    subnet, number = MACHINES[machine]
    return f"{SUBNETS[subnet]}.{number}"


def obstacle() -> str | None:
    """Why this machine cannot have namespaces with firewalls; None if it can."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    packages = {"ip": "iproute2", "nft": "nftables"}
    absent = {command: package for command, package in packages.items() if shutil.which(command) is None}
    if absent:
        return missing(" and ".join(absent), " ".join(absent.values()))
    if os.geteuid() != 0:
        return "network namespaces need root; run the tests as root"
    network = Network({"probe": ("dmz", 1)}, {"border": {"dmz": 254}}, {"dmz": "border"})
    try:
        with network:
            return None
    except subprocess.CalledProcessError as error:
        output = (error.stderr or "").strip().splitlines() or ["no error message"]
        return f"network namespaces cannot be made here: `{' '.join(error.cmd[:4])} …`: {output[0]}"


class Network:
    """Creates the network; at its end, kills all that still runs in it and removes it.

    Raises:
        subprocess.CalledProcessError: a command of iproute2 or nftables failed; `stderr` has the reason.
    """

    def __init__(
        self,
        machines: dict[str, tuple[str, int]] = MACHINES,
        routers: dict[str, dict[str, int]] = ROUTERS,
        switches: dict[str, str] = SWITCHES,
    ) -> None:
        self._machines, self._routers, self._switches = machines, routers, switches
        self._run = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._allowed: set[tuple[str, str]] = set()
        self._blackholed: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs inside, and remove the namespaces with their devices."""
        while self._processes:
            self.end(self._processes[-1])
        while self._namespaces:
            _run(["ip", "netns", "del", self._namespaces.pop()], check=False)

    # ---- use ----

    def allow(self, pairs: Pairs) -> None:
        """Allow new connections between these pairs of subnets and no others. Replies always pass."""
        self._allowed = set(pairs)
        self._load_rules()

    @contextlib.contextmanager
    def blackholed(self, one: str, other: str) -> Iterator[None]:
        """Packets between two subnets are silently dropped, as by a NAT that forgot its connections."""
        pairs = {(one, other), (other, one)}
        self._blackholed |= pairs
        self._load_rules()
        try:
            yield
        finally:
            self._blackholed -= pairs
            self._load_rules()

    @contextlib.contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """Pull the cable between a machine, or the router `inner`, and its subnet's switch."""
        subnet = self._machines[name][0] if name in self._machines else "site-a"
        namespace = self.namespace(self._switches[subnet])
        _run(["ip", "-n", namespace, "link", "set", f"to-{name}", "down"])
        try:
            yield
        finally:
            _run(["ip", "-n", namespace, "link", "set", f"to-{name}", "up"])

    def start(self, machine: str, command: Sequence[str], **streams: IO[str] | int) -> subprocess.Popen[str]:
        """Run a command on a machine. Its stdin is a pipe, which ends with this process."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, **streams}
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        inside = ["ip", "netns", "exec", self.namespace(machine), *command]
        # A new session: Ctrl-C is for the tests, which end what runs inside.
        process = subprocess.Popen(inside, text=True, start_new_session=True, env=environment, **pipes)
        self._processes.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """Kill a process that `start` returned and those that it started, such as a shell's. Close its pipes.

        Does nothing the second time.
        """
        if process not in self._processes:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._processes.remove(process)

    def start_agent(self, machine: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `agent.py` on a machine. It prints lines of JSON."""
        return self.start(machine, [sys.executable, "-I", "-S", str(INSIDE), *arguments], stdout=subprocess.PIPE)

    def read_line(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The only line that an agent prints. Ends the agent."""
        assert process.stdout is not None
        line = process.stdout.readline()
        self.end(process)
        return dict(json.loads(line))

    def dial(self, targets: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
        """Let each machine dial its HOST:PORTs, all at once. Returns machine → HOST:PORT → result of `agent.dial`."""
        dialling = {machine: self.start_agent(machine, "dial", *hosts) for machine, hosts in targets.items()}
        return {machine: self.read_line(process) for machine, process in dialling.items()}

    def ports(self, machine: str) -> dict[str, Any]:
        """`listening`: TCP ports that are listened on; `opened`: connections as [local, remote]."""
        return self.read_line(self.start_agent(machine, "ports"))

    def namespace(self, name: str) -> str:
        """The namespace of a machine or router."""
        return f"{self._run}-{name}"

    # ---- creation ----

    def _build(self) -> None:
        for name in [*self._routers, *self._machines]:
            namespace = self.namespace(name)
            _run(["ip", "netns", "add", namespace])
            self._namespaces.append(namespace)
            self._ip(name, ["link set lo up"])
        for subnet, router in self._switches.items():
            number = self._routers[router][subnet]
            self._ip(router, [f"link add {subnet} type bridge", *_leg(subnet, subnet, number)])
        for router, legs in self._routers.items():
            for subnet, number in legs.items():
                if self._switches[subnet] != router:
                    self._plug(router, subnet, subnet, number)
            forward = Path("/proc/sys/net/ipv4/ip_forward")
            _run(["ip", "netns", "exec", self.namespace(router), "sh", "-c", f"echo 1 > {forward}"])
        for machine, (subnet, number) in self._machines.items():
            self._plug(machine, subnet, "eth0", number)
            self._ip(machine, self._routes(subnet))
        self._load_rules()

    def _plug(self, name: str, subnet: str, device: str, number: int) -> None:
        """Connect a device of a machine or router to the switch of a subnet."""
        switch = self._switches[subnet]
        plug = f"to-{name}"
        self._ip(name, [f"link add {device} type veth peer name {plug} netns {self.namespace(switch)}"])
        self._ip(switch, [f"link set {plug} master {subnet}", f"link set {plug} up"])
        self._ip(name, _leg(device, subnet, number))

    def _routes(self, subnet: str) -> list[str]:
        """Routes from a subnet to those one router away."""
        return [
            f"route add {SUBNETS[other]}.0/24 via {SUBNETS[subnet]}.{legs[subnet]}"
            for legs in self._routers.values()
            if subnet in legs
            for other in legs
            if other != subnet
        ]

    def _load_rules(self) -> None:
        for router, legs in self._routers.items():
            rules = [_rule(pair, "drop") for pair in self._blackholed if set(pair) <= legs.keys()]
            rules.append("ct state established,related accept")
            # On hosts that also filter bridges, traffic inside a subnet passes here.
            rules += [_rule((leg, leg), "accept") for leg in legs]
            rules += [_rule(pair, "ct state new accept") for pair in sorted(self._allowed) if set(pair) <= legs.keys()]
            ruleset = RULESET.format(rules="\n        ".join(rules))
            _run(["ip", "netns", "exec", self.namespace(router), "nft", "-f", "-"], input=ruleset)

    def _ip(self, name: str, lines: Iterable[str]) -> None:
        _run(["ip", "-n", self.namespace(name), "-batch", "-"], input="\n".join(lines) + "\n")


def _leg(device: str, subnet: str, number: int) -> list[str]:
    """Commands that give a device its address."""
    return [f"addr add {SUBNETS[subnet]}.{number}/24 dev {device}", f"link set {device} up"]


def _rule(pair: tuple[str, str], action: str) -> str:
    return f'iifname "{pair[0]}" oifname "{pair[1]}" {action}'


def _remove_leftovers() -> None:
    """Remove the namespaces of runs that were killed."""
    for line in _run(["ip", "netns", "list"]).stdout.splitlines():
        name = line.split()[0]
        prefix, _, rest = name.partition("-")
        if prefix == PREFIX and not Path(f"/proc/{rest.partition('-')[0]}").exists():
            _run(["ip", "netns", "del", name], check=False)


def _run(command: list[str], *, check: bool = True, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=input, check=check, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)

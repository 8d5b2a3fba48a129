"""A network of its own for one test: only a loopback device, and a firewall that can swallow the packets of one port.

All processes and the test itself are inside, so the network of the machine is not touched.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

CLONE_NEWNET = 0x40000000
COMMAND_TIMEOUT_S = 10.0
# Dropped at the input: packets that are dropped at the output of a machine make its `send` fail at once.
_RULES = """\
flush ruleset
table inet black_hole {{
    chain input {{
        type filter hook input priority 0; policy accept;
        {rules}
    }}
}}
"""


class Namespace:
    """Exists while the block runs.

    Raises:
        subprocess.CalledProcessError: a command of iproute2 or nftables failed; `stderr` has the reason.
    """

    def __init__(self) -> None:
        self.name = f"hier-{os.getpid()}-{secrets.token_hex(2)}"
        self.inside = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Self:
        _run(["ip", "netns", "add", self.name])
        _run(["ip", "-n", self.name, "link", "set", "lo", "up"])
        return self

    def __exit__(self, *_: object) -> None:
        _run(["ip", "netns", "del", self.name])

    def swallow(self, *ports: int) -> None:
        """Drop all packets from and to these TCP ports, in silence. Without ports: of none any more."""
        rules = "\n        ".join(f"tcp dport {port} drop\n        tcp sport {port} drop" for port in ports)
        _run([*self.inside, "nft", "-f", "-"], _RULES.format(rules=rules))

    def call(self, function: Callable[[], None]) -> None:
        """Call a function inside, in a thread, since a namespace belongs to a thread. Raises what it raises."""
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with Path("/run/netns", self.name).open() as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                function()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]


def _run(command: list[str], text: str = "") -> None:
    subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)

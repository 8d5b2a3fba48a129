"""Many nodes in one process, each below one parent by a reverse link: `python children.py PARENT COUNT`.

They listen on free ports of 127.0.0.1 and have no engines. The process ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from hierarchy.api import build_app
from hierarchy.config.models import NodeConfig
from hierarchy.node import Node
from hierarchy.runtime.parent_death import call_on_parent_death
from hierarchy.server import Server, bind


async def serve(parent: str, count: int) -> None:
    """Run the nodes until a signal ends them all."""
    servers = []
    for number in range(count):
        config = NodeConfig(
            name=f"child-{number}",
            listen=(("127.0.0.1", 0),),
            advertise="http://127.0.0.1:0",
            parents=(parent,),
            link="reverse",
            proxy="none",
        )
        config, sockets = bind(config)
        node = Node(config)
        servers.append(Server(node, build_app(node)).serve(sockets))
    await asyncio.gather(*servers)


def main() -> None:
    """The command line."""
    call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGKILL))
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()

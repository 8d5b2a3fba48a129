"""What a request costs in machine instructions, without sockets: `python tools/bench/instructions.py [FOLDER...]`.

Counted by Valgrind, so the result hardly depends on what else runs on the machine; a difference of 0.1 % shows. Each
FOLDER is a copy of the project that runs compiled (`tools/compiled.py FOLDER --whole`), also of an older commit; the
default is this one. The figures: instructions of one request, and the share of them that the modules of fairness have
(turns, places, held bytes). What a socket costs comes on top, about as much again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REQUESTS = {"json": 2000, "sse": 100}  # that are counted
EVENTS = 64  # of one stream
#: compiled functions of the modules that give each client its turn, its place and its share of memory
FAIRNESS = re.compile(r"CPyDef_(turns|places|held_bytes|descriptors|unread)___|Request____?(count|key)$")


class _Transport:
    """Does as little as possible."""

    data = b""

    def write(self, data: bytes) -> None:
        self.data = data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _serve(kind: str, count: int) -> None:
    """One client and one engine in memory, and `count` requests."""
    from bench.load import completion
    from hierarchy.relay.upstream.connection import Upstream
    from tests.relay.memory import MemoryLane
    from tests.relay.raw import http_response

    memory = MemoryLane()
    client, engine = _Transport(), _Transport()
    protocol: Any = memory.protocols(config=memory.config, server_state=memory.state, app_state={}, _loop=memory.loop)
    protocol.connection_made(client)
    memory.pool.idle.clear()
    upstream = Upstream(memory.pool)
    upstream.connection_made(engine)  # type: ignore[arg-type]
    memory.pool.put(upstream)
    request = completion("http://127.0.0.1:8000", "m", stream=kind == "sse")
    event = b'data: {"choices":[{"index":0,"delta":{"content":"tok "},"logprobs":null,"finish_reason":null}]}\n\n'
    reads = [http_response(b'{"choices":[{"text":"%b"}]}' % (b"word " * 100), b"content-type: application/json")]
    if kind == "sse":
        reads = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"]
        reads += [b"%x\r\n%b\r\n" % (len(event), event)] * EVENTS + [b"0\r\n\r\n"]
    gc.disable()  # it would look at all modules, however few requests there are
    for number in range(200 + count):
        protocol.data_received(request)
        for data in reads:
            upstream.data_received(data)
        if number == 100:
            await asyncio.sleep(0)
    assert client.data.startswith(b"HTTP/1.1 200") or client.data == reads[-1], client.data


def _instructions(folder: Path, kind: str, count: int) -> dict[str, int]:
    """Of a process that serves `count` requests, by function."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "out")
        env = {**os.environ, "PYTHONPATH": f"{folder}:{folder}/tools", "PYTHONHASHSEED": "0"}
        argv = [sys.executable, __file__, "--serve", kind, str(count)]
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        subprocess.run([*tool, *argv], cwd=folder, env=env, check=True, capture_output=True)
        listing = ["callgrind_annotate", "--threshold=100", str(out)]
        text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    found: dict[str, int] = {}
    for line in text.splitlines():
        if match := re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+\S+?:(\S+)", line):
            found[match[2]] = found.get(match[2], 0) + int(match[1].replace(",", ""))
    return found


def measure(folder: Path, kind: str) -> tuple[float, float]:
    """Instructions of one request, and those of them that are for fairness."""
    count = REQUESTS[kind]
    none, some = _instructions(folder, kind, 0), _instructions(folder, kind, count)
    each = {name: (some[name] - none.get(name, 0)) / count for name in some}
    return sum(each.values()), sum(number for name, number in each.items() if FAIRNESS.search(name))


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Count the instructions of a request, without sockets.")
    parser.add_argument("folders", type=Path, nargs="*", default=[ROOT], help="compiled copies of the project")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(_serve(args.serve[0], int(args.serve[1])))
        return 0
    if shutil.which("valgrind") is None:
        print("error: valgrind is not installed; Debian: apt install valgrind", file=sys.stderr)
        return 1
    for kind in REQUESTS:
        first = 0.0
        for folder in args.folders:
            total, fairness = measure(folder.absolute(), kind)
            first = first or total
            change = f", {total / first - 1:+.1%}" if total != first else ""
            print(f"{kind}: {folder}: {total:,.0f} instructions a request{change}; fairness {fairness / total:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

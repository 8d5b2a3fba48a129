"""A tree on the machines of the network, from one YAML file: real daemons and simulated engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from hierarchy.config.models import Settings
from tests.subnets.network import SUBNETS, Network, Pairs, address
from tests.support import DEADLINE_S

NODE_PORT, ENGINE_PORT = 21001, 8000
NODES = {"root": None, "site-a": "root", "site-b": "root", "rack": "site-a"}  #: name: parent
ENGINES = {"gpu-a": "site-a", "gpu-b": "site-b", "gpu-rack": "rack"}  #: name of the engine and its model: parent

#: `reach` if no node may dial downwards
UP = (("rack", "site-a"), ("site-a", "dmz"), ("site-b", "dmz"))
#: `reach` if parents may dial their children as well
BOTH = (*UP, *((above, below) for below, above in UP))

SETTINGS: dict[str, Any] = {"report_interval_s": 0.5, "probe_interval_s": 0.5, "grace_s": 1}
if "security" in Settings.model_fields:  # these tests are about reachability, not about keys
    SETTINGS["security"] = {"insecure": True}

DIRECT = dict.fromkeys(("site-a", "site-b", "rack"), "direct")
REVERSE = dict.fromkeys(DIRECT, "reverse")
ISOLATED = REVERSE | {"site-b": "auto"}  #: which has to detect that its parent cannot dial it

START_S = 30.0
TOKENS_PER_S = 25.0


def write_yaml(folder: Path, reach: Pairs, links: dict[str, str]) -> Path:
    """Write the YAML file of the tree. links: `link` of each node that has a parent."""
    subnets = {name: f"{start}.0/24" for name, start in SUBNETS.items()}
    lines = ["version: 1", f"subnets: {json.dumps(subnets)}", f"reach: {json.dumps(list(reach))}"]
    lines += [f"defaults: {json.dumps(SETTINGS)}", "nodes:"]
    for name, parent in NODES.items():
        node = {"listen": f"{address(name)}:{NODE_PORT}"}
        node |= {"parent": parent, "link": links[name]} if parent else {}
        lines.append(f"  {name}: {json.dumps(node)}")
    lines.append("engines:")
    for name, parent in ENGINES.items():
        engine = {"parent": parent, "kind": "simulated", "url": f"http://{address(name)}:{ENGINE_PORT}"}
        lines.append(f"  {name}: {json.dumps(engine)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tree.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Response:
    """The response to a request of an agent, as it arrives."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.body = ""  #: the lines that were read so far
        self.end: dict[str, Any] | None = None  #: how and when it ended
        self.head = next(self, {})  #: empty if there was no response; then `end` has the reason

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """The next line of the body, as {"line": text, "at": its time}."""
        assert self.process.stdout is not None
        line = json.loads(self.process.stdout.readline() or '{"end": "killed", "at": 0}')
        if "end" in line:
            self.end = line
            raise StopIteration
        self.body += line.get("line", "") + "\n"
        return dict(line)

    def wait(self) -> Self:
        """Read until the response ends in any way."""
        for _ in self:
            pass
        return self

    @property
    def status(self) -> int | None:
        """HTTP status; None if there was no response."""
        return self.head.get("status")

    @property
    def complete(self) -> bool:
        """Whether the response has ended as its framing says."""
        return self.end is not None and self.end["end"] == "complete"

    @property
    def ended_at(self) -> float:
        """Monotonic time at which it ended."""
        assert self.end is not None, "it has not ended yet"
        return float(self.end["at"])


class Tree:
    """Daemons and engines on the machines of the network. They end with the network."""

    def __init__(self, network: Network, folder: Path, reach: Pairs, links: dict[str, str]) -> None:
        self.network, self.folder = network, folder
        self.file = write_yaml(folder, reach, links)
        self.network.allow(reach)
        for name in ENGINES:
            options = ["--host", address(name), "--port", str(ENGINE_PORT), "--model", name]
            rates = ["--decode-tokens-per-s", str(TOKENS_PER_S), "--exit-with-parent"]
            self._start(name, "engine", "simulated", *options, *rates)
        for name in NODES:
            self._start(name, "serve", str(self.file), "--node", name, "--exit-with-parent")

    def wait(self) -> None:
        """Wait until clients in the dmz can use the models of all engines."""
        try:
            self.wait_for("client", "root", "/v1/models", *(f'"id":"{name}"' for name in ENGINES), deadline_s=START_S)
        except AssertionError as error:
            for log in sorted(self.folder.glob("*.log")):
                error.add_note(f"--- {log.name}\n{log.read_text()}")
            raise

    def wait_for(self, machine: str, name: str, path: str, *texts: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the response to a GET from a machine has all texts. They are written without spaces."""
        process = self.network.start_agent(machine, "poll", str(deadline_s), self.url(name, path), *texts)
        found = self.network.read_line(process)["after"] is not None
        assert found, f"after {deadline_s} s, {name}{path} still did not have {', '.join(texts)}"

    def url(self, name: str, path: str) -> str:
        """The URL of a path of a node or engine."""
        return f"http://{address(name)}:{ENGINE_PORT if name in ENGINES else NODE_PORT}{path}"

    def get(self, machine: str, name: str, path: str) -> Any:
        """The JSON that a GET from a machine returns; None if the response is incomplete."""
        return self.post(machine, name, path)

    def post(self, machine: str, name: str, path: str, *body: str) -> Any:
        """The JSON that a POST from a machine returns; without `body`, a GET."""
        response = Response(self.network.start_agent(machine, "request", self.url(name, path), *body))
        response.wait()
        self.network.end(response.process)
        return json.loads(response.body) if response.complete else None

    def chat(self, machine: str, node: str, model: str, **fields: Any) -> Response:
        """Send a chat request from a machine to a node. Returns when the response has begun."""
        return Response(self.start_chat(machine, node, model, **fields))

    def start_chat(self, machine: str, node: str, model: str, **fields: Any) -> subprocess.Popen[str]:
        """`chat` without waiting: the response is the `Response` of the returned process."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
        return self.network.start_agent(machine, "request", self.url(node, "/v1/chat/completions"), json.dumps(body))

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.network.start(name, [sys.executable, "-m", "hierarchy", *arguments], stdout=log, stderr=log)

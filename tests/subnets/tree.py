"""One tree over the network's machines, from one YAML: a real daemon on each, and simulated engines beside them."""

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
ENGINES = {"gpu-a": "site-a", "gpu-b": "site-b", "gpu-rack": "rack"}  #: name, which is its model's too: parent

#: who may dial whom where nobody may dial down
UP = (("rack", "site-a"), ("site-a", "dmz"), ("site-b", "dmz"))
#: and where parents may dial their children as well
BOTH = (*UP, *((above, below) for below, above in UP))

SETTINGS: dict[str, Any] = {"report_interval_s": 0.5, "probe_interval_s": 0.5, "grace_s": 1}
if "security" in Settings.model_fields:  # these tests are about who reaches whom, not about keys
    SETTINGS["security"] = {"insecure": True}

DIRECT = dict.fromkeys(("site-a", "site-b", "rack"), "direct")
REVERSE = dict.fromkeys(DIRECT, "reverse")
ISOLATED = REVERSE | {"site-b": "auto"}  #: which must find out by itself that nobody can dial it

START_S = 30.0
TOKENS_PER_S = 25.0


def written(folder: Path, reach: Pairs, links: dict[str, str]) -> Path:
    """The file of the tree. `links` is of the nodes that have a parent."""
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


class Asked:
    """A request that a program on some machine has sent, and what it says of the answer as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.body = ""  #: the lines of it that were read
        self.ended: dict[str, Any] | None = None
        self.head = next(self, {})  #: empty if there was no answer; then `ended` says why

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """The next line of the body, as {"line": text, "at": its time}."""
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline() or '{"end": "killed", "at": 0}')
        if "end" in said:
            self.ended = said
            raise StopIteration
        self.body += said.get("line", "") + "\n"
        return dict(said)

    def wait(self) -> Self:
        """Until the answer has ended, in whatever way."""
        for _ in self:
            pass
        return self

    @property
    def status(self) -> int | None:
        return self.head.get("status")

    @property
    def complete(self) -> bool:
        """Whether the answer was read to its proper end."""
        return self.ended is not None and self.ended["end"] == "complete"

    @property
    def ended_at(self) -> float:
        """Monotonic time at which it ended."""
        assert self.ended is not None, "it has not ended yet"
        return float(self.ended["at"])


class Tree:
    """Daemons and engines on the network's machines. They end with the network."""

    def __init__(self, network: Network, folder: Path, reach: Pairs, links: dict[str, str]) -> None:
        self.network, self.folder = network, folder
        self.file = written(folder, reach, links)
        self.network.open(reach)
        for name in ENGINES:
            options = ["--host", address(name), "--port", str(ENGINE_PORT), "--model", name]
            rates = ["--decode-tokens-per-s", str(TOKENS_PER_S), "--exit-with-parent"]
            self._start(name, "engine", "simulated", *options, *rates)
        for name in NODES:
            self._start(name, "serve", str(self.file), "--node", name, "--exit-with-parent")

    def wait(self) -> None:
        """Until the dmz can ask for every engine's model."""
        try:
            self.wait_for("client", "root", "/v1/models", *(f'"id":"{name}"' for name in ENGINES), deadline_s=START_S)
        except AssertionError as error:
            for log in sorted(self.folder.glob("*.log")):
                error.add_note(f"--- {log.name}\n{log.read_text()}")
            raise

    def wait_for(self, machine: str, name: str, path: str, *texts: str, deadline_s: float = DEADLINE_S) -> None:
        """Until what a node or engine answers a GET from a machine holds all the texts, written without spaces."""
        process = self.network.inside(machine, "poll", str(deadline_s), self.url(name, path), *texts)
        found = self.network.one_line(process)["after"] is not None
        assert found, f"waited {deadline_s} s in vain for {name}{path} to hold {', '.join(texts)}"

    def url(self, name: str, path: str) -> str:
        return f"http://{address(name)}:{ENGINE_PORT if name in ENGINES else NODE_PORT}{path}"

    def get(self, machine: str, name: str, path: str) -> Any:
        """What a node or engine answers a GET from a machine; None if nothing."""
        return self.post(machine, name, path)

    def post(self, machine: str, name: str, path: str, *body: str) -> Any:
        """What it answers a POST with that body."""
        asked = Asked(self.network.inside(machine, "ask", self.url(name, path), *body))
        asked.wait()
        self.network.end(asked.process)
        return json.loads(asked.body) if asked.complete else None

    def ask(self, machine: str, node: str, model: str, **fields: Any) -> Asked:
        """A chat completion from a machine, at a node; returns when its answer has begun."""
        return Asked(self.send(machine, node, model, **fields))

    def send(self, machine: str, node: str, model: str, **fields: Any) -> subprocess.Popen[str]:
        """`ask` without waiting for the answer, which is the `Asked` of what this returns."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
        return self.network.inside(machine, "ask", self.url(node, "/v1/chat/completions"), json.dumps(body))

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.network.start(name, [sys.executable, "-m", "hierarchy", *arguments], stdout=log, stderr=log)

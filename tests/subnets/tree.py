"""One tree over the network's machines, from one YAML: a real daemon on each, and simulated engines beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hierarchy.config import Settings
from tests.subnets.network import SUBNETS, Network, Pairs, address
from tests.support import eventually

NODE_PORT, ENGINE_PORT = 21001, 8000
NODES = {"root": None, "site-a": "root", "site-b": "root", "rack": "site-a"}  #: name: parent
ENGINES = {"gpu-a": "site-a", "gpu-b": "site-b", "gpu-rack": "rack"}  #: name, which is its model's too: parent

#: who may dial whom where nobody may dial down
UP = (("rack", "site-a"), ("site-a", "dmz"), ("site-b", "dmz"))
#: and where parents may dial their children as well
BOTH = (*UP, *((above, below) for below, above in UP))

SETTINGS: dict[str, Any] = {"report_interval_s": 0.3, "probe_interval_s": 0.2, "grace_s": 1}
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
        self.end: dict[str, Any] | None = None
        self.head = next(self, {})  #: empty if there was no answer; then `end` says why

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """The next line of the body, as {"line": text, "at": its time}."""
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline() or '{"end": "killed"}')
        if "end" in said:
            self.end = said
            raise StopIteration
        return dict(said)

    @property
    def complete(self) -> bool:
        """Whether the answer was read to its proper end."""
        return self.end is not None and self.end["end"] == "complete"

    @property
    def status(self) -> int | None:
        return self.head.get("status")

    def rest(self) -> str:
        """The lines of the body that are still to come; returns when the answer has ended."""
        return "\n".join(said["line"] for said in self)


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
        eventually(lambda: self.models("client", "root") == sorted(ENGINES), "the root to list all models", START_S)

    def log(self, name: str) -> str:
        """What a daemon has logged."""
        return (self.folder / f"{name}.log").read_text()

    def url(self, name: str, path: str) -> str:
        return f"http://{address(name)}:{ENGINE_PORT if name in ENGINES else NODE_PORT}{path}"

    def get(self, machine: str, name: str, path: str) -> Any:
        """What a node or engine answers a GET from a machine; None if nothing."""
        asked = Asked(self.network.inside(machine, "ask", self.url(name, path)))
        text = asked.rest()
        self.network.end(asked.process)
        return json.loads(text) if asked.complete else None

    def models(self, machine: str, node: str) -> list[str]:
        """What a node lists, asked from a machine."""
        answer = self.get(machine, node, "/v1/models") or {"data": []}
        return sorted(row["id"] for row in answer["data"])

    def ask(self, machine: str, node: str, model: str, **fields: Any) -> Asked:
        """A chat completion from a machine, at a node."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **fields}
        url = self.url(node, "/v1/chat/completions")
        return Asked(self.network.inside(machine, "ask", url, json.dumps(body)))

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self.network.start(name, [sys.executable, "-m", "hierarchy", *arguments], stdout=log, stderr=log)

"""What real engines find in their caches: `python tools/bench/real_engines.py [--chats N] [--turns N] [--cache MB]`.

Two llama.cpp (`hierarchy engine local`) behind a root and two sites, and chats about a page of text each, whose turns
come in turn, as from many users. The engines tell how many tokens of each prompt they had
(`usage.prompt_tokens_details.cached_tokens`); nothing is computed here. The caches of both engines together hold all
chats, that of one engine does not. The chats run with `dispatch: prefix` and with `dispatch: shortest_queue`, each time
with new engines. What is possible is told by some of them at one engine alone, one whole chat after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, it is started from any folder
from bench.testbed import ROOT, free_port

MODEL = "chat"
START_S = 120.0
ANSWER_TOKENS = 8
SLOTS = 4
ALONE = 4  # chats that tell what is possible; the others are like them
WORDS = (
    *("river", "stone", "lamp", "garden", "winter", "copper", "bridge", "letter", "harbour", "candle", "meadow"),
    *("thunder", "silver", "basket", "orchard", "window", "mountain", "pepper", "violin", "anchor", "forest"),
    *("mirror", "saddle", "kettle", "ribbon", "castle", "feather", "tunnel", "marble", "pocket"),
)
SYSTEM = (
    "You are a patient assistant of a small museum. You answer in short and plain sentences, you name what you do not "
    "know, and you never invent a date, a name or a number. You keep to what the visitor asks."
)


@dataclass
class Tokens:
    """What engines said of prompts."""

    cached: int = 0
    total: int = 0
    moved: int = 0  # turns that went to another engine than the one before
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """The part of all prompts that engines had."""
        return self.cached / max(1, self.total)


class Chat:
    """One user, who asks again and again."""

    def __init__(self, number: int) -> None:
        self._rng = random.Random(number)
        self._path = ""  # of the turn before
        self.messages = [{"role": "system", "content": SYSTEM}]

    def _text(self, words: int) -> str:
        return " ".join(self._rng.choice(WORDS) for _ in range(words))

    def ask(self, http: httpx.Client, url: str, tokens: Tokens) -> None:
        """The next turn."""
        words = 450 if len(self.messages) == 1 else 12
        self.messages.append({"role": "user", "content": f"Tell me of this: {self._text(words)}."})
        body = {"model": MODEL, "messages": self.messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        answer = http.post(f"{url}/v1/chat/completions", json=body).raise_for_status()
        path = answer.headers.get("x-hierarchy-path", "")
        tokens.moved += self._path not in ("", path)
        self._path, response = path, answer.json()
        self.messages.append({"role": "assistant", "content": response["choices"][0]["message"]["content"]})
        usage: dict[str, Any] = response["usage"]
        tokens.cached += usage["prompt_tokens_details"]["cached_tokens"]
        tokens.total += usage["prompt_tokens"]


@contextlib.contextmanager
def process(log: Path, *argv: object) -> Iterator[None]:
    """A command of ours that runs while the block does."""
    with log.open("ab") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "hierarchy", *map(str, argv), "--exit-with-parent"],
            stdin=subprocess.PIPE, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.communicate()


def wait_until(http: httpx.Client, url: str, least: int) -> None:
    """Wait for a node or engine that has the model, and for all of its engines. Raises `TimeoutError`."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            if least == 0:
                if http.get(f"{url}/health").status_code == httpx.codes.OK:
                    return
            elif len(_up(http.get(f"{url}/tree").raise_for_status().json())) >= least:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{url} is not up after {START_S:.0f} s")


def _up(entry: dict[str, Any]) -> list[str]:
    """Names of the engines of a tree that are up."""
    children = entry.get("children", {})
    if not children:
        return [entry["name"]] if entry.get("state") == "up" and entry.get("models") else []
    return [name for child in children.values() for name in _up(child)]


@contextlib.contextmanager
def engine(log: Path, cache_mb: int) -> Iterator[str]:
    """A real engine, with an empty cache."""
    port = free_port()
    argv = ["engine", "local", "--port", port, "--alias", MODEL, "--cache", cache_mb, "--slots", SLOTS]
    with process(log, *argv):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def tree(folder: Path, policy: str, engines: list[str]) -> Iterator[str]:
    """A root, two sites, and one engine at each of them."""
    ports = [free_port() for _ in range(3)]
    config = {
        "version": 1,
        "defaults": {"dispatch": policy},
        "nodes": {
            "root": {"listen": f"localhost:{ports[0]}"},
            "site-a": {"parent": "root", "listen": f"localhost:{ports[1]}"},
            "site-b": {"parent": "root", "listen": f"localhost:{ports[2]}"},
        },
        "engines": {
            f"cpu-{one}": {"parent": f"site-{one}", "kind": "llamacpp", "url": url}
            for one, url in zip("ab", engines, strict=True)
        },
    }
    path = folder / f"{policy}.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    with process(folder / f"{policy}.log", "up", path):
        yield f"http://localhost:{ports[0]}"


def through_tree(folder: Path, policy: str, args: argparse.Namespace) -> Tokens:
    """All chats, their turns mixed, with new engines."""
    tokens, rng = Tokens(), random.Random(1)
    with contextlib.ExitStack() as up, httpx.Client(timeout=600, trust_env=False) as http:
        engines = [up.enter_context(engine(folder / f"engine-{one}.log", args.cache)) for one in "ab"]
        for url in engines:
            wait_until(http, url, 0)
        root = up.enter_context(tree(folder, policy, engines))
        wait_until(http, root, 2)
        chats, began = [Chat(number) for number in range(args.chats)], time.monotonic()
        with ThreadPoolExecutor(args.users) as users:
            for _ in range(args.turns):
                rng.shuffle(chats)  # nobody waits for the others to have asked in the same order
                for asked in [users.submit(chat.ask, http, root, tokens) for chat in chats]:
                    asked.result()
        tokens.seconds = time.monotonic() - began
    return tokens


def alone(folder: Path, args: argparse.Namespace) -> Tokens:
    """One chat after the other at one engine: each turn finds all that the one before it left."""
    tokens = Tokens()
    with engine(folder / "engine.log", args.cache) as url, httpx.Client(timeout=600, trust_env=False) as http:
        wait_until(http, url, 0)
        began = time.monotonic()
        for number in range(min(ALONE, args.chats)):
            chat = Chat(number)
            for _ in range(args.turns):
                chat.ask(http, url, tokens)
        tokens.seconds = time.monotonic() - began
    return tokens


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Count what real engines find in their caches, by their own count.")
    parser.add_argument("--chats", type=int, default=20, metavar="NUMBER", help="chats (default: 20)")
    parser.add_argument("--turns", type=int, default=6, metavar="NUMBER", help="turns of each (default: 6)")
    parser.add_argument("--users", type=int, default=2, metavar="NUMBER", help="requests at once (default: 2)")
    parser.add_argument(
        "--cache", type=int, default=160, metavar="MB",
        help="memory of an engine for prompts, beside its slots (default: 160, for most of ten chats)",
    )  # fmt: skip
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hierarchy-real-engines-") as name:
        folder = Path(name)
        best = alone(folder, args)
        print(f"{'':16}  cached  of all  of best  moved  seconds")
        rows = {"best possible": best}
        print(_row("best possible", best, best), flush=True)
        for policy in ("prefix", "shortest_queue"):
            rows[policy] = through_tree(folder, policy, args)
            print(_row(policy, rows[policy], best), flush=True)
    more = rows["prefix"].rate / max(1e-9, rows["shortest_queue"].rate)
    print(
        f"{args.chats} chats of {args.turns} turns, {args.cache} MB of cache an engine: "
        f"prefix has {rows['prefix'].rate / best.rate:.2f} of the best possible, {more:.1f} x shortest_queue"
    )
    return 0


def _row(name: str, tokens: Tokens, best: Tokens) -> str:
    counts = f"{tokens.cached:6}  {tokens.rate:6.3f}  {tokens.rate / best.rate:7.3f}  {tokens.moved:5}"
    return f"{name:16}  {counts}  {tokens.seconds:7.0f}"


if __name__ == "__main__":
    sys.exit(main())

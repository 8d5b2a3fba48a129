"""A FastChat worker without a model, based on FastChat's own `BaseModelWorker`. Runs in .venv/compat.

It repeats the user's words one by one. Words in the prompt change that: FAIL reports an error after the first word, DIE
ends the process there, RAISE raises an exception before it, WAIT waits for SIGUSR1 before it, and SLOW takes a tenth of
a second for each word.

With `--each` it is FastChat's multi-model worker: it has the same paths, and each model registers separately.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import fastchat.serve.base_model_worker as base
import uvicorn

CONTEXT, CONCURRENCY = 2048, 5
CONTINUE = threading.Event()  # ends WAIT
MAX_NEW_TOKENS = 256  # FastChat's default


class Tokenizer:
    """One token per word."""

    def __call__(self, text: str) -> Any:
        return type("Tokens", (), {"input_ids": text.split()})


class Worker(base.BaseModelWorker):
    """The worker."""

    def __init__(self, controller: str, address: str, models: list[str]) -> None:
        super().__init__(controller, address, "test", "toy", models, CONCURRENCY, conv_template="vicuna_v1.1")
        self.context_len = CONTEXT
        self.tokenizer = Tokenizer()
        if controller:
            self.init_heart_beat()

    def frames(self, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The frames of a response."""
        prompt: str = params["prompt"]
        user = prompt.rpartition("USER:")[2].partition("ASSISTANT:")[0].split()
        words = ["you", "said", *user]
        if "RAISE" in user:
            raise ValueError("RAISE")
        if "WAIT" in user:
            CONTINUE.wait()
            CONTINUE.clear()
        limit = int(params.get("max_new_tokens", MAX_NEW_TOKENS))
        stops = params.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        text = prompt if params.get("echo", True) else ""
        for number, word in enumerate(words[:limit], 1):
            text += word if number == 1 else " " + word
            stop = next((stop for stop in stops if stop in text), None)
            reason = "stop" if stop or number == len(words) else "length" if number == limit else None
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": number}
            usage["total_tokens"] = sum(usage.values())
            yield {
                "text": text.partition(stop)[0] if stop else text,
                "error_code": 0,
                "usage": usage,
                "finish_reason": reason,
            }
            if stop:
                return
            if "SLOW" in user:
                time.sleep(0.1)
            if "FAIL" in user:
                yield {"text": "out of memory, says the worker", "error_code": 50002}
                return
            if "DIE" in user:
                time.sleep(0.2)  # until the first words have been sent
                os._exit(9)

    def generate_stream_gate(self, params: dict[str, Any]) -> Iterator[bytes]:
        """The response of `/worker_generate_stream`."""
        self.call_ct += 1
        for frame in self.frames(params):
            yield json.dumps(frame).encode() + b"\0"

    def generate_gate(self, params: dict[str, Any]) -> dict[str, Any]:
        """The response of `/worker_generate`."""
        *_, last = self.frames(params)
        return last

    def get_embeddings(self, params: dict[str, Any]) -> dict[str, Any]:
        """The response of `/worker_get_embeddings`: the length of each text, and 1."""
        texts: list[str] = params["input"]
        count = sum(len(text.split()) for text in texts)
        return {"embedding": [[float(len(text)), 1.0] for text in texts], "token_num": count}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--controller", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--each", action="store_true")
    options = parser.parse_args()
    address, names = f"http://127.0.0.1:{options.port}", options.models.split(",")
    signal.signal(signal.SIGUSR1, lambda *_: CONTINUE.set())
    app = base.app
    if options.each:
        from fastchat.serve import multi_model_worker

        multi_model_worker.workers = [Worker(options.controller, address, [name]) for name in names]
        multi_model_worker.worker_map = dict(zip(names, multi_model_worker.workers, strict=True))
        app = multi_model_worker.app
    else:
        Worker(options.controller, address, names)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()

"""An imitation of TinyChat's worker: the messages of llm-awq's model_worker, and their order.

It has two paths, registers before it listens, begins its text with the prompt, and reports neither usage nor a finish
reason. It sends heartbeats from inside its handlers, which blocks it until they get a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.support import DEADLINE_S, free_port, running_app

HEARTBEAT_S = 15.0
HEARTBEAT_TIMEOUT_S = 5.0


class TinyChatWorker:
    """A worker of one model."""

    def __init__(self, controller: str, model: str, interval_s: float = HEARTBEAT_S) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.heartbeats: list[object] = []  # the response to each: `exist`, or an error
        self.hold = threading.Event()  # while it is not set, a stream stops after its first word
        self.hold.set()
        self.code = 0  # error_code with which a stream ends after its first word; 0: none
        self._controller = controller
        self._model = model
        self._interval_s = interval_s
        self._serving = 0
        self._ended = threading.Event()
        self.app = FastAPI()
        self.app.post("/worker_generate_stream")(self.generate_stream)
        self.app.post("/worker_get_status")(self.get_status)

    @contextlib.contextmanager
    def running(self) -> Iterator[TinyChatWorker]:
        """Register, then listen and send heartbeats."""
        self.register()
        thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        thread.start()
        try:
            with running_app(self.app, port=int(self.url.rpartition(":")[2])):
                yield self
        finally:
            self._ended.set()
            thread.join(HEARTBEAT_TIMEOUT_S)

    def register(self) -> None:
        """Register with the controller."""
        message = {"worker_name": self.url, "check_heart_beat": True, "worker_status": self.status()}
        assert httpx.post(f"{self._controller}/register_worker", json=message).status_code == 200

    def send_heart_beat(self) -> None:
        """Send a heartbeat, and register again if the controller does not know this worker."""
        message = {"worker_name": self.url, "queue_length": self._serving}
        try:
            response = httpx.post(f"{self._controller}/receive_heart_beat", json=message, timeout=HEARTBEAT_TIMEOUT_S)
            exist = response.json()["exist"]
        except httpx.HTTPError as error:
            self.heartbeats.append(error)
            return
        self.heartbeats.append(exist)
        if not exist:
            self.register()

    def status(self) -> dict[str, object]:
        return {"model_names": [self._model], "speed": 1, "queue_length": self._serving}

    async def get_status(self, request: Request) -> dict[str, object]:
        return self.status()

    async def generate_stream(self, request: Request) -> StreamingResponse:
        params = await request.json()
        self._serving += 1
        self.send_heart_beat()
        tasks = BackgroundTasks()
        tasks.add_task(self._release)
        return StreamingResponse(self._stream(params), background=tasks)

    async def _release(self) -> None:
        self._serving -= 1
        self.send_heart_beat()

    async def _stream(self, params: dict[str, str]) -> AsyncIterator[bytes]:
        text = params["prompt"]
        for word in (" one", " two", " three"):
            text += word
            yield json.dumps({"text": text, "error_code": 0}).encode() + b"\0"
            if self.code:
                yield json.dumps({"text": "**NETWORK ERROR**", "error_code": self.code}).encode() + b"\0"
                return
            await asyncio.to_thread(self.hold.wait, DEADLINE_S)

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.send_heart_beat()

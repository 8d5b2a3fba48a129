"""TinyChat's worker re-enacted: what llm-awq's model_worker does on the wire, and when.

It knows two paths, registers before it listens, says the prompt before its answer, reports neither usage nor why it
ends, and sends its beats from inside its handlers, where nothing else of it runs until they are answered.
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

BEAT_S = 15.0
BEAT_TIMEOUT_S = 5.0


class TinyChatWorker:
    """beats: how each of its heart beats was answered. hold: an answer stops behind its first word until it is set.
    code: of an error that its answer ends with behind that word; 0 for none.
    """

    def __init__(self, controller: str, model: str, interval_s: float = BEAT_S) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.beats: list[object] = []
        self.hold = threading.Event()  # set by another thread than the one that waits
        self.hold.set()
        self.code = 0
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
        self.register()
        thread = threading.Thread(target=self._keep_beating, daemon=True)
        thread.start()
        try:
            with running_app(self.app, port=int(self.url.rpartition(":")[2])):
                yield self
        finally:
            self._ended.set()
            thread.join(BEAT_TIMEOUT_S)

    def register(self) -> None:
        message = {"worker_name": self.url, "check_heart_beat": True, "worker_status": self.status()}
        assert httpx.post(f"{self._controller}/register_worker", json=message).status_code == 200

    def send_heart_beat(self) -> None:
        message = {"worker_name": self.url, "queue_length": self._serving}
        try:
            answer = httpx.post(f"{self._controller}/receive_heart_beat", json=message, timeout=BEAT_TIMEOUT_S).json()
        except httpx.HTTPError as error:
            self.beats.append(error)
            return
        self.beats.append(answer["exist"])
        if not answer["exist"]:
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
        return StreamingResponse(self._answer(params), background=tasks)

    async def _release(self) -> None:
        self._serving -= 1
        self.send_heart_beat()

    async def _answer(self, params: dict[str, str]) -> AsyncIterator[bytes]:
        text = params["prompt"]
        for word in (" one", " two", " three"):
            text += word
            yield json.dumps({"text": text, "error_code": 0}).encode() + b"\0"
            if self.code:
                yield json.dumps({"text": "**NETWORK ERROR**", "error_code": self.code}).encode() + b"\0"
                return
            await asyncio.to_thread(self.hold.wait, DEADLINE_S)

    def _keep_beating(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.send_heart_beat()

"""The simulated engine as a FastChat worker, with a controller that records the messages."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hierarchy.engines.simulated import registration
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from tests.support import eventually, free_port, running_app

ADDRESS = "http://10.9.8.7:21002"


class Controller:
    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.refusals = 0  # registrations that get status 500
        self.known = True  # the response to the next heartbeat
        self._lock = threading.Lock()
        self.app = Starlette(
            routes=[
                Route("/register_worker", self._register, methods=["POST"]),
                Route("/receive_heart_beat", self._heartbeat, methods=["POST"]),
            ]
        )

    async def _register(self, request: Request) -> Response:
        self.messages.append(("register", await request.json()))
        if self.refusals:
            self.refusals -= 1
            return Response("not now", 500)
        return JSONResponse(None)

    async def _heartbeat(self, request: Request) -> Response:
        self.messages.append(("heartbeat", await request.json()))
        known, self.known = self.known, True
        return JSONResponse({"exist": known})

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.messages]


def options(controller_url: str) -> SimulatedOptions:
    return SimulatedOptions(
        models=("m", "n"), speed=2.0, register=controller_url, address=ADDRESS, heart_beat_s=0.02, slots=3
    )


def test_it_registers_and_sends_heartbeats_as_a_worker_does() -> None:
    controller = Controller()
    with running_app(controller.app) as url, running_app(create_app(options(url + "/"))):
        eventually(lambda: len(controller.messages) >= 3)
    assert controller.messages[0] == (
        "register",
        {
            "worker_name": ADDRESS,
            "check_heart_beat": True,
            "worker_status": {"model_names": ["m", "n"], "speed": 2.0, "queue_length": 0},
        },
    )
    assert controller.messages[1] == ("heartbeat", {"worker_name": ADDRESS, "queue_length": 0})
    assert set(controller.kinds()[1:]) == {"heartbeat"}


def test_it_registers_again_if_the_controller_does_not_know_it() -> None:
    controller = Controller()
    controller.known = False
    with running_app(controller.app) as url, running_app(create_app(options(url))):
        eventually(lambda: len(controller.messages) >= 4)
    assert controller.kinds()[:4] == ["register", "heartbeat", "register", "heartbeat"]


def test_it_retries_while_the_controller_refuses_or_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "RETRY_S", 0.02)
    controller = Controller()
    controller.refusals = 2
    with running_app(controller.app) as url, running_app(create_app(options(url))):
        eventually(lambda: "heartbeat" in controller.kinds())
    assert controller.kinds()[:4] == ["register", "register", "register", "heartbeat"]
    with running_app(create_app(options(f"http://127.0.0.1:{free_port()}"))):
        pass  # it starts and ends without a controller


def test_registering_needs_an_address() -> None:
    with pytest.raises(ValueError, match="address"):
        create_app(SimulatedOptions(register="http://127.0.0.1:1"))

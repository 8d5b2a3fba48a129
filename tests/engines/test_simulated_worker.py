"""The simulated engine as a FastChat worker, against a controller that writes down what it is told."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hierarchy.engines.simulated import worker
from hierarchy.engines.simulated.app import create_app
from hierarchy.engines.simulated.options import SimulatedOptions
from tests.support import eventually, free_port, running_app

ADDRESS = "http://10.9.8.7:21002"


class Controller:
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.refusals = 0  # registrations to answer with 500
        self.known = True  # what a heartbeat is told
        self._lock = threading.Lock()
        self.app = Starlette(
            routes=[
                Route("/register_worker", self._register, methods=["POST"]),
                Route("/receive_heart_beat", self._beat, methods=["POST"]),
            ]
        )

    async def _register(self, request: Request) -> Response:
        self.heard.append(("register", await request.json()))
        if self.refusals:
            self.refusals -= 1
            return Response("not now", 500)
        return JSONResponse(None)

    async def _beat(self, request: Request) -> Response:
        self.heard.append(("beat", await request.json()))
        known, self.known = self.known, True
        return JSONResponse({"exist": known})

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.heard]


def options(controller_url: str) -> SimulatedOptions:
    return SimulatedOptions(
        models=("m", "n"), speed=2.0, register=controller_url, address=ADDRESS, heart_beat_s=0.02, slots=3
    )


def test_it_registers_and_beats_as_a_worker_does() -> None:
    controller = Controller()
    with running_app(controller.app) as url, running_app(create_app(options(url + "/"))):
        eventually(lambda: len(controller.heard) >= 3)
    assert controller.heard[0] == (
        "register",
        {
            "worker_name": ADDRESS,
            "check_heart_beat": True,
            "worker_status": {"model_names": ["m", "n"], "speed": 2.0, "queue_length": 0},
        },
    )
    assert controller.heard[1] == ("beat", {"worker_name": ADDRESS, "queue_length": 0})
    assert set(controller.kinds()[1:]) == {"beat"}


def test_it_registers_anew_when_it_was_forgotten() -> None:
    controller = Controller()
    controller.known = False
    with running_app(controller.app) as url, running_app(create_app(options(url))):
        eventually(lambda: len(controller.heard) >= 4)
    assert controller.kinds()[:4] == ["register", "beat", "register", "beat"]


def test_it_tries_again_while_the_controller_refuses_or_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RETRY_S", 0.02)
    controller = Controller()
    controller.refusals = 2
    with running_app(controller.app) as url, running_app(create_app(options(url))):
        eventually(lambda: "beat" in controller.kinds())
    assert controller.kinds()[:4] == ["register", "register", "register", "beat"]
    with running_app(create_app(options(f"http://127.0.0.1:{free_port()}"))):
        pass  # it starts and ends all the same


def test_registering_needs_an_address() -> None:
    with pytest.raises(ValueError, match="address"):
        create_app(SimulatedOptions(register="http://127.0.0.1:1"))

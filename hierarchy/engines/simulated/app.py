"""A simulated engine as an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hierarchy.engines.simulated.engine import Engine, freeze, wait_forever
from hierarchy.engines.simulated.fastchat import FastChatPaths
from hierarchy.engines.simulated.faults import Fault, parse_faults
from hierarchy.engines.simulated.openai import OpenAIPaths
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.engines.simulated.registration import stay_registered
from hierarchy.engines.simulated.reset import ResettableApp, reset_connection
from hierarchy.engines.simulated.response import WRONG_BODIES
from hierarchy.engines.simulated.roles import routes as role_routes

Handler = Callable[[Request], Awaitable[Any]]
FAULT = "hierarchy.fault"  # in the scope of a probe

#: in the response of `/version`, and in the `server` field of `hierarchy engine simulated`
VERSION = "hierarchy-simulated"


def create_app(options: SimulatedOptions) -> Starlette:
    """One simulated engine. Its state is `app.state.engine`; apps share nothing.

    Raises:
        ValueError: `register` without `address`.
    """
    if options.register is not None and options.address is None:
        raise ValueError("`register` needs an `address`: the URL under which the controller reaches this worker")
    engine = Engine(options)
    control, openai, fastchat = _Control(engine), OpenAIPaths(engine), FastChatPaths(engine)
    with_faults = functools.partial(_with_probe_faults, engine)
    app = ResettableApp(
        routes=[
            *role_routes(engine),
            Route("/health", with_faults(control.health)),
            Route("/metrics", with_faults(control.metrics)),
            Route("/version", control.version),
            Route("/v1/models", with_faults(openai.models)),
            Route("/v1/chat/completions", openai.chat, methods=["POST"]),
            Route("/v1/completions", openai.completions, methods=["POST"]),
            Route("/v1/embeddings", openai.embeddings, methods=["POST"]),
            Route("/worker_get_status", with_faults(fastchat.status), methods=["POST"]),
            Route("/worker_generate_stream", fastchat.generate_stream, methods=["POST"]),
            Route("/worker_generate", fastchat.generate, methods=["POST"]),
            Route("/worker_get_embeddings", fastchat.embeddings, methods=["POST"]),
            Route("/worker_get_conv_template", fastchat.conv_template, methods=["POST"]),
            Route("/model_details", fastchat.model_details, methods=["POST"]),
            Route("/count_token", fastchat.count_token, methods=["POST"]),
            Route("/sleep", control.sleep, methods=["POST"]),
            Route("/wake_up", control.wake_up, methods=["POST"]),
            Route("/is_sleeping", control.is_sleeping),
            Route("/simulated", control.state),
            Route("/simulated/faults", control.set_faults, methods=["POST"]),
            Route("/simulated/models", control.set_models, methods=["POST"]),
        ],
        middleware=[Middleware(_SuppressCancellation)],
        lifespan=lambda app: _registration(engine),
    )
    app.state.engine = engine
    return app


class _Control:
    """The handlers of health, metrics and `/simulated`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def health(self, request: Request) -> Response:
        return Response()  # as vLLM does: 200 without a body

    async def metrics(self, request: Request) -> Response:
        fault = request.scope.get(FAULT)
        return PlainTextResponse(self._engine.metrics(fault.running if isinstance(fault, Fault) else None))

    async def sleep(self, request: Request) -> Response:
        """vLLM's path for sleeping engines, and so are the next two. `level` is 1 or 2."""
        level = request.query_params.get("level", "1")
        if level not in ("1", "2"):
            return JSONResponse({"error": "level: must be 1 or 2"}, 400)
        self._engine.sleep(int(level))
        return Response()

    async def wake_up(self, request: Request) -> Response:
        fault = self._engine.faults.take("wake")
        if fault is not None and fault.status is not None:
            return PlainTextResponse("a simulated fault", fault.status)
        await asyncio.sleep(self._engine.options.load_s)
        self._engine.sleep(0)
        return Response()

    async def is_sleeping(self, request: Request) -> Response:
        return JSONResponse({"is_sleeping": self._engine.sleep_level > 0})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def state(self, request: Request) -> Response:
        return JSONResponse(self._engine.state())

    async def set_faults(self, request: Request) -> Response:
        """A fault or a list of faults, which replaces the active ones; `[]` clears them."""
        try:
            self._engine.faults.replace(parse_faults(await request.body()))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse(self._engine.state())

    async def set_models(self, request: Request) -> Response:
        """`{"models": [name, ...]}` replaces the engine's models. FastChat's controllers notice when they refresh."""
        try:
            change = msgspec.json.decode(await request.body(), type=_Models)
        except msgspec.DecodeError as error:
            return JSONResponse({"error": str(error)}, 422)
        self._engine.models[:] = dict.fromkeys(change.models)
        return JSONResponse(self._engine.state())


class _Models(msgspec.Struct):
    models: list[Annotated[str, msgspec.Meta(min_length=1)]]


class _SuppressCancellation:
    """Prevents a logged traceback for each running request when the server stops, which cancels them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


def _with_probe_faults(engine: Engine, handler: Handler) -> Handler:
    """`handler`, to whose requests the active faults for probes apply first."""

    async def handle(request: Request) -> Any:
        fault = engine.faults.take("probe")
        if fault is not None:
            engine.faulted += 1
            request.scope[FAULT] = fault
            freeze(fault)
            if fault.hang:
                await wait_forever()
            await asyncio.sleep(fault.delay_first_byte_s)
            if fault.status is not None:
                return PlainTextResponse("a simulated fault", fault.status)
            if fault.answer is not None:
                return HTMLResponse(WRONG_BODIES.get(fault.answer, b'{"err'))
            if fault.reset:
                await reset_connection(request.scope)
                return Response()
        return await handler(request)

    return handle


@contextlib.asynccontextmanager
async def _registration(engine: Engine) -> AsyncIterator[None]:
    """The app's lifespan: stay registered with a controller if the options name one."""
    options = engine.options
    if options.register is None or options.address is None:
        yield
        return
    task = asyncio.create_task(stay_registered(engine, options.register, options.address))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))

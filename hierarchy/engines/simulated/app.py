"""The simulated engine as an ASGI app: its routes and its lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hierarchy.engines.simulated.engine import Engine, forever
from hierarchy.engines.simulated.fastchat import FastChatPaths
from hierarchy.engines.simulated.faults import parse_faults
from hierarchy.engines.simulated.openai import OpenAIPaths
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.engines.simulated.worker import stay_registered

Handler = Callable[[Request], Awaitable[Any]]

#: of vLLM's `/version`, and of the Server header that `hierarchy engine simulated` sends
VERSION = "hierarchy-simulated"


def create_app(options: SimulatedOptions) -> Starlette:
    """One simulated engine. Its state is `app.state.engine`; apps share nothing.

    Raises:
        ValueError: it shall register, but has no address under which it can be reached.
    """
    if options.register is not None and options.address is None:
        raise ValueError("a worker that registers needs an `address`")
    engine = Engine(options)
    admin, openai, fastchat = _Admin(engine), OpenAIPaths(engine), FastChatPaths(engine)

    def probe(handler: Handler) -> Handler:
        return _faulty(engine, handler)

    app = Starlette(
        routes=[
            Route("/health", probe(admin.health)),
            Route("/metrics", probe(admin.metrics)),
            Route("/version", admin.version),
            Route("/v1/models", probe(openai.models)),
            Route("/v1/chat/completions", openai.chat, methods=["POST"]),
            Route("/v1/completions", openai.completions, methods=["POST"]),
            Route("/v1/embeddings", openai.embeddings, methods=["POST"]),
            Route("/worker_get_status", probe(fastchat.status), methods=["POST"]),
            Route("/worker_generate_stream", fastchat.generate_stream, methods=["POST"]),
            Route("/worker_generate", fastchat.generate, methods=["POST"]),
            Route("/worker_get_embeddings", fastchat.embeddings, methods=["POST"]),
            Route("/worker_get_conv_template", fastchat.conv_template, methods=["POST"]),
            Route("/model_details", fastchat.model_details, methods=["POST"]),
            Route("/count_token", fastchat.count_token, methods=["POST"]),
            Route("/simulated", admin.page),
            Route("/simulated/faults", admin.set_faults, methods=["POST"]),
            Route("/simulated/models", admin.set_models, methods=["POST"]),
        ],
        middleware=[Middleware(_EndQuietly)],
        lifespan=lambda app: _registered(engine),
    )
    app.state.engine = engine
    return app


class _Admin:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def health(self, request: Request) -> Response:
        return Response()  # as vLLM's: 200 and no body

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._engine.metrics())

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def page(self, request: Request) -> Response:
        return JSONResponse(self._engine.page())

    async def set_faults(self, request: Request) -> Response:
        """A fault or a list of them; replaces those in force, so that `[]` clears them."""
        try:
            self._engine.faults.replace(parse_faults(await request.body()))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse(self._engine.page())

    async def set_models(self, request: Request) -> Response:
        """`{"models": [name, ...]}`: what it serves from now on. FastChat controllers learn it when they ask."""
        try:
            change = msgspec.json.decode(await request.body(), type=_Models)
        except msgspec.DecodeError as error:
            return JSONResponse({"error": str(error)}, 422)
        self._engine.models[:] = dict.fromkeys(change.models)
        return JSONResponse(self._engine.page())


class _Models(msgspec.Struct):
    models: list[Annotated[str, msgspec.Meta(min_length=1)]]


class _EndQuietly:
    """A server that stops cancels what still runs, and would log a traceback for each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


def _faulty(engine: Engine, handler: Handler) -> Handler:
    """`handler`, struck by the faults that are for probes."""

    async def struck(request: Request) -> Any:
        fault = engine.faults.take("probe")
        if fault is not None:
            engine.faulted += 1
            if fault.hang:
                await forever()
            await asyncio.sleep(fault.delay_first_byte_s)
            if fault.status is not None:
                return PlainTextResponse("a simulated fault", fault.status)
        return await handler(request)

    return struck


@contextlib.asynccontextmanager
async def _registered(engine: Engine) -> AsyncIterator[None]:
    """Stay registered, if that was asked for, as long as the app runs."""
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

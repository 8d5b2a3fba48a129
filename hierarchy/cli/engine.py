"""`hierarchy engine`: run an engine on this machine, real or simulated, and fetch models for it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from hierarchy.config.models import SimulatedSpec
from hierarchy.engines import local, model_store
from hierarchy.engines.simulated.app import VERSION, create_app
from hierarchy.engines.simulated.faults import Fault, parse_faults
from hierarchy.engines.simulated.options import SimulatedOptions
from hierarchy.errors import UsageError
from hierarchy.runtime import logs
from hierarchy.runtime.parent_death import call_on_parent_death

GRACE_S = 1  # for a simulated engine's running streams, at its end; a box that is switched off gives less

logger = logging.getLogger(__name__)

engine_app = typer.Typer(no_args_is_help=True, help="Run an engine on this machine, or fetch a model for it.")

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: one that is free, told in the log.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Name = Annotated[str | None, typer.Option(help="What the log calls it; default: its kind and port.")]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", help="End when stdin ends (for supervisors).")]


@engine_app.command("local")
def run_local(
    port: Port,
    model: Annotated[
        str, typer.Option(help="A known model's name, or the path of a .gguf file.")
    ] = model_store.DEFAULT,
    host: Host = "127.0.0.1",
    alias: Annotated[str | None, typer.Option(help="Name under which it is served; default: the model's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="For computing.")] = 1,
    slots: Annotated[int, typer.Option(min=1, help="Requests at once; more wait.")] = 4,
    context: Annotated[int, typer.Option(min=256, help="Tokens of context in each slot.")] = 2048,
    name: Name = None,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Serve a model on this machine's CPU with llama.cpp's own server (needs the extra `local`)."""
    alias = alias or model_store.model_name(model)
    _prepare(name or f"local:{port}", exit_with_parent)
    local.import_xllamacpp()  # before anything is fetched for it
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
    options = local.LocalOptions(model_store.find_model(model), alias, host, port, threads, slots, context)
    logger.info("loading %s", options.path)
    _on_signals(_vanish)
    server = local.start_server(options)
    logger.info("serving %s at %s (%d slots, %d threads)", alias, server.listening_address, slots, threads)
    while True:
        time.sleep(1)  # a signal ends it at once; one that came just before it sleeps, after a second


@engine_app.command("simulated")
def run_simulated(
    port: Port,
    model: Annotated[list[str] | None, typer.Option(help="A model it claims to serve; may be repeated.")] = None,
    host: Host = "127.0.0.1",
    prefill_tokens_per_s: Annotated[float, typer.Option(min=1e-3)] = SimulatedSpec().prefill_tokens_per_s,
    decode_tokens_per_s: Annotated[float, typer.Option(min=1e-3, help="Of one stream.")] = (
        SimulatedSpec().decode_tokens_per_s
    ),
    slots: Annotated[int, typer.Option(min=1, help="Requests at once; more wait.")] = SimulatedSpec().slots,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer that ends by itself.")] = 64,
    speed: Annotated[float, typer.Option(min=1e-6, help="Capacity weight that it tells FastChat controllers.")] = 1.0,
    register: Annotated[str | None, typer.Option(help="Controller to register with, as a FastChat worker.")] = None,
    address: Annotated[str | None, typer.Option(help="URL to register; default: http://HOST:PORT.")] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help='A fault as JSON, such as {"status": 503, "count": 2}.')
    ] = None,
    name: Name = None,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Stand in for a GPU box: the right protocol and timing, and nothing computed."""
    _prepare(name or f"simulated:{port}", exit_with_parent)
    with _listen(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        options = SimulatedOptions(
            models=tuple(model or SimulatedOptions.models),
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=decode_tokens_per_s,
            slots=slots,
            answer_tokens=answer_tokens,
            speed=speed,
            register=register,
            address=address or url,
            faults=_faults(fault or []),
        )
        logger.info("simulated engine, which computes nothing, serves %s at %s", ", ".join(options.models), url)
        _serve(options, listener)


@engine_app.command("fetch")
def fetch(
    model: Annotated[str, typer.Argument(help=f"One of: {', '.join(model_store.KNOWN)}.")] = model_store.DEFAULT,
) -> None:
    """Fetch a model ahead of time and print where it is."""
    typer.echo(model_store.find_model(model))


def _prepare(name: str, exit_with_parent: bool) -> None:
    """Logs, labelled `name`; and an end with status 0 at SIGTERM, Ctrl-C and, if asked for, the parent's death."""
    logs.setup("text", name)
    _on_signals(_end)
    if exit_with_parent:
        call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGTERM))


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _vanish(number: int, frame: FrameType | None) -> NoReturn:
    """End without unwinding, which would run the destructor of llama.cpp's server (see `local.start_server`)."""
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        errno = error.errno or 0  # below 0: name resolution's, which os.strerror does not know
        reason = os.strerror(errno) if errno > 0 else error.strerror
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from None


def _faults(texts: list[str]) -> tuple[Fault, ...]:
    try:
        return tuple(fault for text in texts for fault in parse_faults(text))
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from None


def _serve(options: SimulatedOptions, listener: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(options),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=[("server", VERSION)],
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # For a signal before uvicorn takes over, in whose start an exception would end badly, and for the one that stopped
    # uvicorn, which it raises once more when it is done.
    _on_signals(stop)
    server.run(sockets=[listener])

"""`hierarchy engine`: run an engine on this machine, real or simulated, or fetch a model for one."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn, cast, get_args

import typer

from hierarchy.cli import flags
from hierarchy.cli.interrupts import raise_keyboard_interrupt
from hierarchy.cli.output import print_json
from hierarchy.config import simulated
from hierarchy.config.address import url_of
from hierarchy.engines import model_store
from hierarchy.engines.local import CACHE_MB
from hierarchy.errors import UsageError
from hierarchy.runtime import logs, signals
from hierarchy.runtime.line_writer import LineWriter, own_stderr
from hierarchy.runtime.log_file import LogFile
from hierarchy.runtime.parent_death import call_on_parent_death

if TYPE_CHECKING:
    from hierarchy.engines.simulated.faults import Fault
    from hierarchy.engines.simulated.options import Role, SimulatedOptions

GRACE_S = 1  # for the running streams of a simulated engine at its end; a machine that is switched off gives less

logger = logging.getLogger(__name__)

engine_app = typer.Typer(no_args_is_help=True, help="Run an engine on this machine, or fetch a model for one.")

Port = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 for any, which the log shows.")
]
Host = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the engine in the log.", show_default="its kind and port")
]
Slots = Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Requests that run at once; more wait.")]


@engine_app.command("local")
def run_local(
    port: Port,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Name of a known model, or path of a .gguf file.")
    ] = model_store.DEFAULT,
    host: Host = "127.0.0.1",
    alias: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name under which the model is served.", show_default="the model's"),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="CPU threads to compute with.")] = 1,
    slots: Slots = 4,
    context: Annotated[int, typer.Option(metavar="TOKENS", min=256, help="Tokens of context for each slot.")] = 2048,
    cache: Annotated[
        int,
        typer.Option(metavar="MB", min=0, help="Memory for earlier prompts that no slot holds any more; 0: none."),
    ] = CACHE_MB,
    name: Name = None,
    exit_with_parent: flags.ExitWithParent = False,
) -> None:
    """Serve a model on this machine's CPU with llama.cpp's server (needs the extra `local`)."""
    from hierarchy.engines import local

    alias = alias or model_store.model_name(model)
    stderr = _prepare(name or f"local:{port}", exit_with_parent)
    local.import_xllamacpp()  # fails before a model is downloaded that could not be served
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
    options = local.LocalOptions(model_store.find_model(model), alias, host, port, threads, slots, context, cache)
    logger.info("loading %s", options.path)
    _on_signals(partial(_exit_at_once, stderr))
    server = local.start_server(options)
    logger.info("serving %s at %s (%d slots, %d threads)", alias, server.listening_address, slots, threads)
    while True:
        time.sleep(1)  # a signal ends the sleep at once; one that arrived just before it, after a second


@engine_app.command("simulated")
def run_simulated(
    port: Port,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Model that it lists; repeat the flag for several.", show_default="simulated"
        ),
    ] = None,
    host: Host = "127.0.0.1",
    prefill_tokens_per_s: Annotated[
        float, typer.Option(metavar="RATE", min=1e-3, help="Prompt tokens a second, of all requests together.")
    ] = simulated.PREFILL_TOKENS_PER_S,
    decode_tokens_per_s: Annotated[
        float, typer.Option(metavar="RATE", min=1e-3, help="Generated tokens a second, of each request.")
    ] = simulated.DECODE_TOKENS_PER_S,
    slots: Slots = simulated.SLOTS,
    cache_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", min=0, help="Of prompts, that it keeps and need not read again; 0: none.")
    ] = simulated.CACHE_TOKENS,
    answer_tokens: Annotated[
        int, typer.Option(metavar="TOKENS", min=1, help="Length of an answer; a smaller `max_tokens` shortens it.")
    ] = 64,
    speed: Annotated[
        float, typer.Option(metavar="SPEED", min=1e-6, help="Speed that it reports to FastChat controllers.")
    ] = 1.0,
    register: Annotated[
        str | None, typer.Option(metavar="URL", help="Controller to register with, as a FastChat worker.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="URL to register.", show_default="http://HOST:PORT")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON", help='Fault to inject, such as {"status": 503, "count": 2}; repeat the flag for several.'
        ),
    ] = None,
    role: Annotated[
        str,
        typer.Option(metavar="ROLE", help="One of vllm, router, ollama. The last two load models when requests come."),
    ] = "vllm",
    loaded: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Models that a router or ollama has in memory at once.")
    ] = 1,
    load_s: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Time to load a model, to wake up, or before it listens.")
    ] = 0.0,
    asleep: Annotated[bool, typer.Option("--asleep", help="Sleep from the start, as vLLM does at level 1.")] = False,
    name: Name = None,
    exit_with_parent: flags.ExitWithParent = False,
) -> None:
    """Run an engine that computes nothing, with the protocol and the timing of a real one."""
    from hierarchy.engines.simulated.options import SimulatedOptions

    _prepare(name or f"simulated:{port}", exit_with_parent)
    if role == "vllm" and not asleep:
        time.sleep(load_s)  # such an engine listens when its model is loaded
    with _listen(host, port) as listener:
        url = url_of((host, listener.getsockname()[1]))
        options = SimulatedOptions(
            models=tuple(model or SimulatedOptions.models),
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=decode_tokens_per_s,
            slots=slots,
            cache_tokens=cache_tokens,
            answer_tokens=answer_tokens,
            speed=speed,
            register=register,
            address=address or url,
            role=_role(role),
            loaded=loaded,
            load_s=load_s,
            asleep=asleep,
            faults=_faults(fault or []),
        )
        logger.info("simulated engine, which computes nothing, serves %s at %s", ", ".join(options.models), url)
        _serve(options, listener)


@engine_app.command("fetch")
def fetch(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"One of: {', '.join(model_store.KNOWN)}.")
    ] = model_store.DEFAULT,
    as_json: flags.AsJson = False,
) -> None:
    """Fetch a model ahead of time, and print the path of its file."""
    with raise_keyboard_interrupt():  # which removes what has been downloaded
        path = model_store.find_model(model)
    if as_json:
        print_json({"model": model, "path": str(path)})
    else:
        typer.echo(path)


def _prepare(name: str, exit_with_parent: bool) -> LineWriter:
    """Set up the log. End with status 0 at SIGTERM, at Ctrl-C and, with the flag, when the parent dies.

    Returns what writes the log, which no part of this process waits for until its end.
    """
    at_the_end = contextlib.ExitStack()
    atexit.register(at_the_end.close)
    stderr = at_the_end.enter_context(own_stderr())
    logs.setup("text", name, stream=stderr)
    _on_signals(_exit)
    if (hangup := signals.hangup()) is not None:
        log_file = LogFile()
        hangup.tell(lambda: threading.Thread(target=_hung_up, args=(hangup, log_file), daemon=True).start())
    if exit_with_parent:
        call_on_parent_death(lambda: os.kill(os.getpid(), signal.SIGTERM))
    return stderr


def _hung_up(hangup: signals.Hangup, log_file: LogFile) -> None:
    """In a thread, since a signal's handler may have come into the middle of a line of the log."""
    log_file.reopen_and_log()
    logger.info("a hangup ends nothing")
    time.sleep(signals.TERMINAL_CLOSED_S)
    if hangup.lost_terminal():
        os.kill(os.getpid(), signal.SIGTERM)


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in signals.ENDING:
        signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _exit_at_once(stderr: LineWriter, number: int, frame: FrameType | None) -> NoReturn:
    """End without cleaning up: that would run the destructor of llama.cpp's server (see `local.start_server`)."""
    stderr.drain()
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        errno = error.errno or 0  # below 0 from name resolution, which os.strerror does not know
        reason = os.strerror(errno) if errno > 0 else str(error.strerror).partition(" (while")[0]
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from None


def _role(text: str) -> Role:
    from hierarchy.engines.simulated.options import Role

    if text not in get_args(Role):
        raise UsageError(f"--role {text}: no such role; choose one of {', '.join(get_args(Role))}")
    return cast("Role", text)


def _faults(texts: list[str]) -> tuple[Fault, ...]:
    from hierarchy.engines.simulated.faults import parse_faults

    try:
        return tuple(fault for text in texts for fault in parse_faults(text))
    except ValueError as error:
        raise UsageError(f'--fault: {error}; write one such as {{"status": 503, "count": 2}}') from None


def _serve(options: SimulatedOptions, listener: socket.socket) -> None:
    import uvicorn

    from hierarchy.engines.simulated.app import VERSION, create_app

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

    # For a signal before uvicorn installs its own handler: an exception at that time would leave it half started. And
    # for the signal that stops uvicorn, which uvicorn raises again at its end.
    _on_signals(stop)
    server.run(sockets=[listener])

"""A node on its sockets, under uvicorn: from the first byte to the last stream after SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn

from hierarchy.config.models import NodeConfig
from hierarchy.errors import UsageError
from hierarchy.node import Node
from hierarchy.relay.downstream.places import Guest
from hierarchy.relay.downstream.protocol import LaneProtocol, protocol_factory
from hierarchy.relay.downstream.tls_listener import TlsListener
from hierarchy.reload import Reloader, read_files_again
from hierarchy.runtime import signals
from hierarchy.runtime.listening import CannotListen, listen
from hierarchy.runtime.log_file import LogFile
from hierarchy.runtime.tasks import BackgroundTasks
from hierarchy.uplink.links import link_factory

BACKLOG = 4096
log = logging.getLogger("hierarchy.server")


class Server(uvicorn.Server):
    """uvicorn's server, which starts and stops a node with itself. Its exit status after SIGTERM is 0."""

    def __init__(self, node: Node, app: Any, reloader: Reloader | None = None) -> None:
        tls = node.access.tls.server
        self._protocols = protocol_factory(node.lane, node.clients)
        config = uvicorn.Config(
            app,
            http=self._protocols,  # type: ignore[arg-type]  # a factory does as well as a class
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # A node judges by the address of the connection; X-Forwarded-For could be forged.
            proxy_headers=False,
            ssl_context_factory=(lambda config, default: tls) if tls is not None else None,
            timeout_graceful_shutdown=max(1, round(node.settings.grace_s)),
        )
        super().__init__(config)
        self.node = node
        self._reloader = reloader
        self._log_file = LogFile()
        self._hangup = signals.hangup()  # None: this process ignores SIGHUP
        self._background = BackgroundTasks()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then start the node."""
        self.node.expect_children()
        places, context = self.node.clients.places, self.config.ssl
        if context is None or places is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self.servers = [TlsListener(sock, context, self._protocol, places) for sock in sockets or ()]  # type: ignore[misc]
        where = ", ".join(f"{host}:{port}" for host, port in self.node.config.listen)
        admin = "".join(f", admin {host}:{port}" for host, port in self.node.config.admin)
        identity = self.node.identity
        log.info("%s %s (build %s) listens on %s%s", identity.name, identity.version, identity.build, where, admin)
        await self.node.start(link_factory(self.node.lane, self.node.clients, self.config, self.server_state))
        if self._reloader is not None:
            self._background.keep(self._reloader.run, "reload")
        if self._hangup is not None:
            self._hangup.listen(asyncio.get_running_loop(), self._hung_up, self._lost_terminal)

    def _hung_up(self) -> None:
        self._background.spawn(read_files_again(self.node, self._log_file, self._reloader), "hangup")

    def _lost_terminal(self) -> None:
        log.info("ending: the terminal was closed")
        self.handle_exit(signal.SIGHUP, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the parents first, while the listeners are still open; then let running streams finish."""
        if self._hangup is not None:
            self._hangup.ignore()
        self._background.cancel_all()
        await self.node.leave()
        self.config.timeout_graceful_shutdown = max(1, round(self.node.settings.grace_s))
        waiting = _accept_waiting(sockets or [])
        for server in self.servers:  # at once: a connection accepted by the kernel in between would be reset
            server.close()
        ending = asyncio.ensure_future(super().shutdown(sockets))
        await asyncio.gather(*(self._serve_late(sock) for sock in waiting))
        await ending
        self.node.clients.cut_all()
        await self.node.stop()

    async def _serve_late(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, sock, ssl=self.config.ssl)

    def _protocol(self, handshake: Guest | None = None) -> LaneProtocol:
        """For a connection of a client. handshake: who has its place until then."""
        return self._protocols(config=self.config, server_state=self.server_state, app_state={}, handshake=handshake)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets running streams finish, the second one ends them."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals that end a node, but in the main thread only."""
        # uvicorn's own method raises the signal again at the end: the exit status would be that of a killed process.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in signals.ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _accept_waiting(sockets: list[socket.socket]) -> list[socket.socket]:
    """Accept the connections that wait in the kernel, which would reset them when the listener is closed."""
    accepted: list[socket.socket] = []
    for sock in sockets:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(sock.accept()[0])
                accepted[-1].setblocking(False)
    return accepted


def bind(config: NodeConfig) -> tuple[NodeConfig, list[socket.socket]]:
    """Open the listening sockets; a port of 0 becomes a real one, in `advertise` too.

    Raises:
        UsageError: it cannot listen on an address; names the address.
    """
    sockets: list[socket.socket] = []
    try:
        for host, port in config.listen:
            sockets += _listen(host, port)
        public = len(sockets)
        for host, port in config.admin:
            sockets += _listen(host, port)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    actual = sockets[0].getsockname()[1]
    listen = tuple((host, port or actual) for host, port in config.listen)
    admin = tuple(sock.getsockname()[:2] for sock in sockets[public:])
    advertise = (
        config.advertise.removesuffix(":0") + f":{actual}" if config.advertise.endswith(":0") else config.advertise
    )
    return config.model_copy(update={"listen": listen, "admin": admin, "advertise": advertise}), sockets


def _listen(host: str, port: int) -> list[socket.socket]:
    try:
        return listen(host, port, BACKLOG)
    except CannotListen as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}; {error.hint}") from None

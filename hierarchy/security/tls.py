"""TLS contexts from the files that a configuration names."""

from __future__ import annotations

import functools
import logging
import ssl
import stat
from pathlib import Path

from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.security.state import stamp_of

log = logging.getLogger("hierarchy.security")


class Tls:
    """The contexts of one node.

    server: for its listeners, None without a certificate. node: for connections to other nodes; only `ca` vouches for
    those, if it is set. engine: for engines of the configuration, which may be anybody's servers.

    Raises:
        UsageError: a file that is missing, or is not what it should be.
    """

    def __init__(self, spec: TlsSpec) -> None:
        self._spec = spec
        self.server = _server(spec)
        if spec.cert or spec.ca:
            _ = self.node, self.engine  # what is wrong with the files is told at the start
        self._stamps = self._look()

    # Made when they are needed: the system's certificates take some milliseconds to load.
    @functools.cached_property
    def node(self) -> ssl.SSLContext:
        return _node(self._spec)

    @functools.cached_property
    def engine(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._spec.ca:
            _trust(context, self._spec.ca)
        return context

    def refresh(self) -> None:
        """Take a renewed certificate into use, for new connections. One that cannot be used is told of."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            _server(self._spec)  # on trial: a context that failed half-way could not serve any more
        except UsageError as error:
            log.error("%s; the certificate that was read before stays in use", error)
            return
        for context in (self.server, self.node):
            if context is not None:
                _identify(context, self._spec)
        log.info("%s: the new certificate is in use", self._spec.cert)

    def _look(self) -> list[object]:
        return [stamp_of(_path(file)) for file in (self._spec.cert, self._spec.key) if file]


def _server(spec: TlsSpec) -> ssl.SSLContext | None:
    if not spec.cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _identify(context, spec)
    if spec.require_client_cert and spec.ca:
        _trust(context, spec.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _node(spec: TlsSpec) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if spec.ca:
        _trust(context, spec.ca)
    else:
        context.load_default_certs()
    if spec.cert:
        _identify(context, spec)
    return context


def _identify(context: ssl.SSLContext, spec: TlsSpec) -> None:
    assert spec.cert
    assert spec.key
    cert, key = _path(spec.cert), _path(spec.key)
    _read(cert)
    mode = _read(key)
    # A group may read it: that is how certificates are handed to daemons on many systems.
    if mode & 0o007:
        raise UsageError(f"{key}: everybody may read this private key (mode {mode:04o}); run: chmod 600 {key}")
    try:
        # A password is never asked for: a daemon would wait for it for ever.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        words = "do not belong together" if "MISMATCH" in str(error) else "are no PEM certificate and private key"
        raise UsageError(f"{cert} and {key} {words}; check the files") from None
    except (ValueError, OSError):
        raise UsageError(f"{cert} and {key} are no PEM certificate and private key; check the files") from None


def _trust(context: ssl.SSLContext, file: str) -> None:
    path = _path(file)
    _read(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError, OSError):
        raise UsageError(f"{path}: holds no PEM certificates; check the file") from None


def _read(path: Path) -> int:
    """The mode of a file that can be read."""
    try:
        with path.open("rb"):
            return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check `tls`") from None


def _path(file: str) -> Path:
    return Path(file).expanduser()

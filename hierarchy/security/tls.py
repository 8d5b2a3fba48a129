"""TLS contexts from the files that a configuration names."""

from __future__ import annotations

import functools
import logging
import ssl
from pathlib import Path

from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.runtime.files import FileWatch
from hierarchy.security.secret import open_guarded

log = logging.getLogger("hierarchy.security")


class TlsContexts:
    """The TLS contexts of one node.

    Attributes:
        server: for its listeners; None without a certificate.
    """

    def __init__(self, spec: TlsSpec) -> None:
        """Raises `UsageError` if a file is missing, or is not a PEM file of the right kind."""
        self._spec = spec
        self.server = _server_context(spec)
        if spec.cert or spec.ca:
            _ = self.node, self.engine  # reports errors in the files at the start
        self._certificate = _certificate(spec)
        self._watch = FileWatch(*(self._certificate or ()))

    # Both contexts are created at first use, since loading the system's certificates takes some milliseconds.
    @functools.cached_property
    def node(self) -> ssl.SSLContext:
        """For connections to other nodes; if `ca` is set, only certificates that it signed are accepted."""
        return _node_context(self._spec)

    @functools.cached_property
    def engine(self) -> ssl.SSLContext:
        """For engines of the configuration. Their certificates may be from public authorities, too, not only `ca`."""
        context = ssl.create_default_context()
        if self._spec.ca:
            _load_authority(context, self._spec.ca)
        return context

    def refresh(self) -> None:
        """Use a renewed certificate for new connections. An error in the files is logged and changes nothing."""
        if self._certificate is None or not self._watch.changed():
            return
        try:
            _server_context(self._spec)  # a trial: a context in use could not serve after a failure half-way
        except UsageError as error:
            log.error("%s; the certificate that was read before stays in use", error)
            return
        for context in (self.server, self.node):
            if context is not None:
                _load_certificate(context, *self._certificate)
        log.info("%s: the new certificate is in use", self._spec.cert)


def _certificate(spec: TlsSpec) -> tuple[Path, Path] | None:
    """The files of the node's certificate and its private key; None if it has none."""
    return (_path(spec.cert), _path(spec.key)) if spec.cert and spec.key else None


def _server_context(spec: TlsSpec) -> ssl.SSLContext | None:
    certificate = _certificate(spec)
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_certificate(context, *certificate)
    if spec.require_client_cert and spec.ca:
        _load_authority(context, spec.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _node_context(spec: TlsSpec) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if spec.ca:
        _load_authority(context, spec.ca)
    else:
        context.load_default_certs()
    if (certificate := _certificate(spec)) is not None:
        _load_certificate(context, *certificate)
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    _check_readable(cert)
    _check_readable(key, is_secret=True)
    try:
        # An empty password instead of a prompt, at which a daemon would wait for ever.
        context.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        problem = "do not belong together" if "MISMATCH" in str(error) else "are not a PEM certificate and private key"
        raise UsageError(f"{cert} and {key} {problem}; check the files") from None
    except (ValueError, OSError):
        raise UsageError(f"{cert} and {key} are not a PEM certificate and private key; check the files") from None


def _load_authority(context: ssl.SSLContext, file: str) -> None:
    path = _path(file)
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError, OSError):
        raise UsageError(f"{path}: contains no PEM certificates; check the file") from None


def _check_readable(path: Path, *, is_secret: bool = False) -> None:
    """Raise `UsageError` if a file cannot be read, or if it is secret and others may read it, too."""
    try:
        with open_guarded(path) if is_secret else path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check `tls`") from None


def _path(file: str) -> Path:
    return Path(file).expanduser()

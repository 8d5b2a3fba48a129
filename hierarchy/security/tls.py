"""TLS contexts from the files that a configuration names."""

from __future__ import annotations

import functools
import logging
import math
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.runtime.expiry import Lifetime
from hierarchy.runtime.files import FileWatch
from hierarchy.runtime.folders import expand
from hierarchy.security.certificate import lifetimes
from hierarchy.security.secret import open_guarded

log = logging.getLogger("hierarchy.security")


class TlsContexts:
    """The TLS contexts of one node.

    Attributes:
        server: for its listeners; None without a certificate.
    """

    def __init__(self, spec: TlsSpec, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: Unix seconds.

        Raises:
            UsageError: a file is missing, or is not a PEM file of the right kind.
        """
        self._spec = spec
        self._now = now
        self.server = _server_context(spec)
        if spec.cert or spec.ca:
            _ = self.node, self.engine  # reports errors in the files at the start
        self._certificate = _certificate(spec)
        self._watch = FileWatch(*(self._certificate or ()))
        self._retry_at = math.inf  # Unix seconds; a certificate that was refused begins to be valid then
        #: lifetimes of what is in use, by the setting that names its file: `cert`, and the last of the CAs in `ca`
        self.lifetimes: dict[str, Lifetime] = {}
        self._note_lifetimes()

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

    def reread(self) -> bool:
        """Read the certificate again at the next `refresh`, whatever its metadata says. False: there is none."""
        self._watch.expect_change()
        return self._certificate is not None

    def refresh(self) -> None:
        """Use a renewed certificate for new connections.

        An error in the files is logged and changes nothing. So does a certificate that is not valid now.
        """
        if self._certificate is None or not (self._watch.changed() or self._now() >= self._retry_at):
            return
        self._retry_at = math.inf
        try:
            _server_context(self._spec)  # a trial: a context in use could not serve after a failure half-way
            self._check_valid_now(self._certificate[0])
        except UsageError as error:
            log.error("%s; the certificate that was read before stays in use", error)
            return
        for context in (self.server, self.node):
            if context is not None:
                _load_certificate(context, *self._certificate)
        self._note_lifetimes()
        log.info("%s: the new certificate is in use", self._spec.cert)

    def _check_valid_now(self, cert: Path) -> None:
        """Raise `UsageError` if the certificate in a file has expired, or is not valid yet."""
        found, now = _lifetimes(cert)[:1], self._now()
        if not found or found[0].stage(now) in ("valid", "expires soon"):
            return
        if found[0].begins > now:
            self._retry_at = found[0].begins
        raise UsageError(f"{cert}: the new certificate {found[0].describe(now)}")

    def _note_lifetimes(self) -> None:
        """Remember when the certificates in use expire; a chain ends with its first certificate's end."""
        if self._certificate is not None and (chain := _lifetimes(self._certificate[0])):
            self.lifetimes["cert"] = Lifetime(chain[0].begins, min(one.ends for one in chain))
        if self._spec.ca and "ca" not in self.lifetimes and (authorities := _lifetimes(_path(self._spec.ca))):
            self.lifetimes["ca"] = max(authorities, key=lambda one: one.ends)


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


def _lifetimes(path: Path) -> list[Lifetime]:
    try:
        return lifetimes(path.read_text("latin-1"))
    except OSError:
        return []  # whoever needs the file reports it


def _path(file: str) -> Path:
    return expand(file)

"""TLS contexts from the files that a configuration names."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.runtime.blocking import AT_ONCE, Place
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
        self._note_lifetimes(_lifetimes(self._certificate[0]) if self._certificate is not None else [])

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

    async def refresh(self, place: Place = AT_ONCE) -> None:
        """Use a renewed certificate for new connections.

        An error in the files is logged and changes nothing. So does a certificate that is not valid now.

        Args:
            place: where the files are read.
        """
        try:
            pair = await place.run(self._read_if_changed)
        except UsageError as error:
            log.error("%s; the certificate that was read before stays in use", error)
            return
        except TimeoutError:  # the log has it already
            return
        if pair is None:
            return
        with pair.files() as (cert, key):  # of memory: this is the event loop, whose contexts no other thread may touch
            for context in (self.server, self.node):
                if context is not None:
                    context.load_cert_chain(cert, key, password=lambda: "")
        self._note_lifetimes(lifetimes(pair.cert.decode("latin-1")))
        log.info("%s: the new certificate is in use", self._spec.cert)

    def _read_if_changed(self) -> _Pair | None:
        """The new certificate and key, if they can be used. Raises `UsageError`."""
        if self._certificate is None or not (self._watch.changed() or self._now() >= self._retry_at):
            return None
        self._retry_at = math.inf
        pair = _read_pair(*self._certificate)
        with pair.files() as files:  # a trial: a context in use could not serve after a failure half-way
            _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files, self._certificate)
        self._check_valid_now(self._certificate[0], lifetimes(pair.cert.decode("latin-1"))[:1])
        return pair

    def _check_valid_now(self, cert: Path, found: list[Lifetime]) -> None:
        """Raise `UsageError` if the certificate in a file has expired, or is not valid yet."""
        now = self._now()
        if not found or found[0].stage(now) in ("valid", "expires soon"):
            return
        if found[0].begins > now:
            self._retry_at = found[0].begins
        raise UsageError(f"{cert}: the new certificate {found[0].describe(now)}")

    def _note_lifetimes(self, chain: list[Lifetime]) -> None:
        """Remember when the certificates in use expire; a chain ends with its first certificate's end."""
        if chain:
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


@dataclass(frozen=True)
class _Pair:
    """A certificate, with its chain, and its private key, as they were read."""

    cert: bytes
    key: bytes

    @contextlib.contextmanager
    def files(self) -> Iterator[tuple[str, str]]:
        """Paths of both, in memory: OpenSSL reads nothing but files."""
        with _in_memory(self.cert) as cert, _in_memory(self.key) as key:
            yield cert, key


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of an open file without a name that has this content."""
    with os.fdopen(os.memfd_create("tls"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _read_pair(cert: Path, key: Path) -> _Pair:
    found = []
    for path, is_secret in ((cert, False), (key, True)):
        try:
            with open_guarded(path) if is_secret else path.open("rb") as file:
                found.append(file.read())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}); check `tls`") from None
    return _Pair(*found)


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    _check_readable(cert)
    _check_readable(key, is_secret=True)
    _load_pair(context, (cert, key), (cert, key))


def _load_pair(context: ssl.SSLContext, files: tuple[Path | str, Path | str], named: tuple[Path, Path]) -> None:
    """Load a certificate and its key. named: the files that messages name."""
    cert, key = named
    try:
        # An empty password instead of a prompt, at which a daemon would wait for ever.
        context.load_cert_chain(*files, password=lambda: "")
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

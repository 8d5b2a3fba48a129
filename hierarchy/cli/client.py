"""The connection of a command to a running node: URL, timeouts, TLS, keys, and errors as one line.

    with open_node(url, flags.ADMIN_KEY, admin_key_file, tls_ca, tls_cert, tls_key) as node:
        tree = node.get("/tree")
        node.post("/admin/drain", {"path": "site-a/gpu-1"})

Every failure raises a `NodeError`, which the program prints as one line, with exit status 2: `NodeUnreachable` if
there is no response, `NodeRefused` if the response is an error or not what a node sends.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from hierarchy.cli import flags
from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import InvalidAdminKey, InvalidApiKey, UsageError, describe
from hierarchy.runtime.fetch import LARGE_BYTES, LARGE_VALUES, Fetched, fetch_now, stream_now
from hierarchy.runtime.folders import expand
from hierarchy.runtime.logs import escape
from hierarchy.security.secret import check_secret, read_secret_file
from hierarchy.security.tls import TlsContexts

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 5.0  #: enough for a response from a node's memory
WHOLE_TIMEOUT_S = 60.0  #: for a whole response, of which each part comes in time
_FAILURES = (httpx.HTTPError, UnicodeError)  # the latter from a host name that DNS does not allow, such as a..b
#: part of a reason -> the hint for it
_HINTS = {
    "certificate verify failed": "does its CA match the one that you trust (--tls-ca, or `tls` in CONFIG)?",
    "WRONG_VERSION_NUMBER": "is it a node without TLS? Then its URL begins with http://",
    "Server disconnected": "does the node use TLS? Then its URL begins with https://",
    "name resolution": "is the host name right?",
    "Name or service not known": "is the host name right?",
    "nodename nor servname": "is the host name right?",  # macOS
}
_SHOWN_CHARS = 300  # of a response that is not a node's, such as a proxy's page
_MAX_MESSAGE = 4000  # characters of a node's error
_JSON = {"content-type": "application/json"}


class NodeError(UsageError):
    """A request to a node failed. `str(error)` is one line with the URL, the reason and a hint."""


class NodeUnreachable(NodeError):
    """No response, or not all of it. `reason` says why, without the URL."""

    def __init__(self, url: str, reason: str) -> None:
        self.reason = escape(reason.rstrip("."))
        hints = (hint for text, hint in _HINTS.items() if text in reason)
        super().__init__(f"cannot reach {url}: {self.reason}; {next(hints, 'is the node running?')}")


class NodeRefused(NodeError):
    """The response is an error, or not from a node.

    Attributes:
        status: of the response.
        message: the node's error message; empty if the response has none.
    """

    def __init__(self, url: str, status: int, message: str, hint: str = "") -> None:
        self.status = status
        self.message = escape(message)
        super().__init__(f"{url} answered {status}" + (f": {self.message}" if message else "") + hint)


class NodeClient:
    """Sends HTTP requests to the node at `url`, which `node_url` completes.

    Args:
        key: API or admin key; empty for none.
        read_timeout_s: limit for each wait for more of a response.
        tls: for an https URL: the CA to trust, and a client certificate. Default: the system's CAs.
        transport: injected by tests.

    Raises:
        UsageError: the URL or a TLS file cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        read_timeout_s: float = READ_TIMEOUT_S,
        tls: TlsSpec | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = node_url(url)
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=authorization(key),
                timeout=httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
                verify=self.url.startswith("https:") and _trust(tls),
                transport=transport,
                trust_env=False,  # as between nodes: a proxy in the environment is for the internet
                follow_redirects=False,
            )
        except (ValueError, OSError) as error:  # from the files that the environment names
            hint = "check SSL_CERT_FILE and SSL_CERT_DIR in the environment"
            raise UsageError(f"cannot make requests to {self.url}: {error}; {hint}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, /, **params: str) -> dict[str, Any]:
        """The JSON object at `path`. Raises `NodeError`."""
        return self._json("GET", path, params)

    def post(self, path: str, body: object) -> dict[str, Any]:
        """The JSON object in the response to `body`. Raises `NodeError`."""
        return self._json("POST", path, content=encoded(body))

    def post_bytes(self, path: str, content: bytes, /, **params: str) -> dict[str, Any]:
        """The JSON object in the response to a body that is sent as it is. Raises `NodeError`."""
        return self._json("POST", path, params, content)

    @contextmanager
    def stream(self, path: str, body: object) -> Iterator[httpx.Response]:
        """POST `body` and yield the response, whose head has been read and whose body has not. Raises `NodeError`."""
        try:
            with stream_now(self._http, path, encoded(body), _JSON, max_bytes=LARGE_BYTES) as response:
                if response.is_error:
                    raise self._refusal(
                        Fetched(self.url + path, response.status_code, response.headers, response.read())
                    )
                yield response
        except _FAILURES as error:
            raise NodeUnreachable(self.url, describe(error)) from None

    def _json(
        self, method: str, path: str, params: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> dict[str, Any]:
        headers = _JSON if content is not None else None
        try:
            response = fetch_now(
                self._http,
                method,
                path,
                params=params,
                content=content,
                headers=headers,
                timeout_s=WHOLE_TIMEOUT_S,
                max_bytes=LARGE_BYTES,
            )
        except _FAILURES as error:
            raise NodeUnreachable(self.url, describe(error)) from None
        page = response.json_or_none(LARGE_VALUES)
        if _is_success(response) and isinstance(page, dict):
            return page
        raise self._refusal(response, page)

    def _refusal(self, response: Fetched, page: Any = None) -> NodeRefused:
        url, status = response.url, response.status
        page = response.json_or_none() if page is None else page
        if _is_success(response):
            what = "a JSON object was expected" if page is not None else "the response is not JSON"
            return NodeRefused(url, status, what, "; is this a node's URL?")
        message = error_message(page)[:_MAX_MESSAGE]
        if message:
            return NodeRefused(url, status, message, self._hint(page))
        text = response.text(_SHOWN_CHARS) or httpx.codes.get_reason_phrase(status)
        return NodeRefused(url, status, text, "; is this a node's URL?")

    def _hint(self, page: dict[str, Any]) -> str:
        """How to fix a wrong or missing key; empty for another error."""
        code = page["error"].get("code") if isinstance(page["error"], dict) else None
        if code == InvalidApiKey.code and "authorization" not in self._http.headers:
            return f"; set {flags.API_KEY}, or use --api-key-file"
        if code != InvalidAdminKey.code:
            return ""
        if "authorization" in self._http.headers:
            return "; is it a client's key, or revoked?"
        return f"; set {flags.ADMIN_KEY}, or use --admin-key-file"


def open_node(
    url: str, variable: str, key_file: Path | None, *tls: str | None, read_timeout_s: float = READ_TIMEOUT_S
) -> NodeClient:
    """The connection of a command to a node, from the command's flags.

    Args:
        variable: environment variable of the key, which the flag `key_file` overrides.
        tls: the values of --tls-ca, --tls-cert and --tls-key.

    Raises:
        UsageError: a flag or a file that it names cannot be used.
    """
    return NodeClient(url, key=read_key(key_file, variable), read_timeout_s=read_timeout_s, tls=client_tls(*tls))


def node_url(text: str) -> str:
    """A node's URL as people type it: without `http://`, or with the `/v1` that OpenAI's clients need.

    Raises:
        UsageError: it is not an http or https URL.
    """
    hint = "write one such as http://localhost:21001"
    url = (text if "://" in text else f"http://{text}").strip().rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UsageError(f"{text!r} is not a URL: {error}; {hint}") from None
    if parsed.scheme not in ("http", "https") or not host or " " in url:
        raise UsageError(f"{text!r} is not an http URL; {hint}")
    return url


def read_key(file: Path | None, variable: str) -> str:
    """The key in `file`, else in the environment variable; empty if there is neither. Raises `UsageError`."""
    if file is not None:
        return read_secret_file(file)
    return check_secret(os.environ[variable], f"env:{variable}") if variable in os.environ else ""


def authorization(key: str) -> dict[str, str]:
    """The request header for `key`; no header for an empty key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def client_tls(ca: str | None, cert: str | None, key: str | None) -> TlsSpec:
    """TLS of a command from its flags. Raises `UsageError`."""
    if (cert is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key go together: name both files, or neither")
    return TlsSpec(ca=ca, cert=cert, key=key)


def readable_tls(spec: TlsSpec) -> TlsSpec:
    """The TLS of a node for a command, without the node's certificate if this user cannot read it."""
    files = [file for file in (spec.cert, spec.key) if file and os.access(expand(file), os.R_OK)]
    return spec if len(files) == 2 else TlsSpec(ca=spec.ca)


def _trust(spec: TlsSpec | None) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`: True for public CAs. Raises OSError for a file of the environment."""
    if spec is not None and (spec.ca or spec.cert):
        return TlsContexts(spec).node
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(cafile=file or None, capath=folder or None) if file or folder else True


def _is_success(response: Fetched) -> bool:
    return 200 <= response.status < 300


def encoded(body: object) -> bytes:
    """A body as OpenAI's clients write it: a prompt is compared byte by byte with what was sent before."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, from a command line that is not UTF-8
        return json.dumps(body, separators=(",", ":")).encode()


def error_message(page: object) -> str:
    """The message in an OpenAI error object, `{"error": {"message"}}` or `{"error": TEXT}`; empty if there is none."""
    error = page.get("error") if isinstance(page, dict) else None
    return str((error.get("message") or error) if isinstance(error, dict) else error or "")

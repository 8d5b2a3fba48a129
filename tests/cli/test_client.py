"""How commands talk to a node: its URL, keys and TLS, and the errors if it does not respond as a node does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.cli.client import (
    NodeClient,
    NodeRefused,
    NodeUnreachable,
    client_tls,
    node_url,
    read_key,
    readable_tls,
)
from hierarchy.cli.flags import ADMIN_KEY, API_KEY
from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.errors import UsageError
from hierarchy.runtime.files import write_private_file
from tests.certificates import Authority
from tests.cli.program import fails, program
from tests.cluster import Cluster
from tests.mock_transport import MockTransport
from tests.security.keyed import Keys
from tests.support import eventually

URL = "http://root:21001"


def client_of(response: httpx.Response | Exception, key: str = "") -> NodeClient:
    """A client whose node returns this response, or raises this error, for each request."""

    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        response.request = request
        return response

    return NodeClient(URL, key=key, transport=MockTransport(handle))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:21001", "http://localhost:21001"),
        ("http://a:1/", "http://a:1"),
        ("https://a/v1", "https://a"),
        ("https://a/prefix/v1/", "https://a/prefix"),
        ("[::1]:21001", "http://[::1]:21001"),
    ],
)
def test_a_url_may_lack_its_scheme_or_end_in_v1(text: str, url: str) -> None:
    assert node_url(text) == url


@pytest.mark.parametrize("text", ["ftp://a", "http://", "", "http://a:port", "http://[::1", "a b", "http://xn--"])
def test_a_bad_url_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="http://localhost:21001"):
        node_url(text)


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_private_file(path, "from-file\n")
    monkeypatch.delenv(ADMIN_KEY, raising=False)
    assert read_key(None, ADMIN_KEY) == ""
    monkeypatch.setenv(ADMIN_KEY, "from-env")
    assert read_key(None, ADMIN_KEY) == "from-env"
    assert read_key(path, ADMIN_KEY) == "from-file"
    monkeypatch.setenv(ADMIN_KEY, "two\nlines")
    with pytest.raises(UsageError, match=ADMIN_KEY):
        read_key(None, ADMIN_KEY)


def test_the_key_is_sent_and_in_no_message() -> None:
    sent: list[httpx.Headers] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers)
        return httpx.Response(401, json={"error": {"message": "not known", "code": "invalid_admin_key"}})

    for key in ("", "hk-x"):
        transport = MockTransport(handle)
        with NodeClient(URL, key=key, transport=transport) as node, pytest.raises(NodeRefused) as refused:
            node.get("/tree")
        assert "hk-x" not in str(refused.value)
    assert [headers.get("authorization") for headers in sent] == [None, "Bearer hk-x"]


def refusal(message: str, code: str = "invalid_admin_key") -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("response", "key", "message"),
    [
        (httpx.Response(404, json=refusal("no child 'x'", "x")), "", "answered 404: no child 'x'"),
        (httpx.Response(500, json={"error": "just text"}), "", "answered 500: just text"),
        (httpx.Response(401, json=refusal("none")), "", f"401: none; set {ADMIN_KEY}, or use --admin-key-file"),
        (
            httpx.Response(401, json=refusal("none", "invalid_api_key")),
            "",
            f"401: none; set {API_KEY}, or use --api-key-file",
        ),
        (httpx.Response(401, json=refusal("wrong", "invalid_api_key")), "k", "answered 401: wrong"),
        (httpx.Response(401, json=refusal("wrong")), "k", "401: wrong; is it a client's key, or revoked?"),
        (httpx.Response(502, text="<html>\x1b\n"), "", "answered 502: <html>\\x1b; is this a node's URL?"),
        (httpx.Response(404), "", "answered 404: Not Found; is this a node's URL?"),
        (httpx.Response(302), "", "answered 302: Found; is this a node's URL?"),
        (httpx.Response(200, text="hello"), "", "answered 200: the response is not JSON; is this a node's URL?"),
        (httpx.Response(200, text="[" * 99999), "", "answered 200: the response is not JSON; is this a node's URL?"),
        (httpx.Response(200, json=[]), "", "answered 200: a JSON object was expected; is this a node's URL?"),
    ],
)
def test_the_error_for_an_unsuccessful_response_is_one_line(response: httpx.Response, key: str, message: str) -> None:
    with client_of(response, key) as node, pytest.raises(NodeRefused) as refused:
        node.get("/tree", depth="1")
    assert str(refused.value) in (f"{URL}/tree {message}", f"{URL}/tree answered {message}")
    assert refused.value.status == response.status_code
    with client_of(response, key) as node, pytest.raises(NodeRefused) as refused:
        node.post("/admin/drain", {"path": "a"})
    assert str(refused.value).startswith(f"{URL}/admin/drain answered ")


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (httpx.ConnectError("connection refused"), "connection refused", "is the node running?"),
        (httpx.ReadTimeout(""), "ReadTimeout", "is the node running?"),
        (
            httpx.ConnectError("certificate verify failed"),
            "certificate verify failed",
            "does its CA match the one that",
        ),
        (httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER]"), "[SSL: WRONG_VERSION_NUMBER]", "is it a node without TLS?"),
        (httpx.RemoteProtocolError("Server disconnected."), "Server disconnected", "does the node use TLS?"),
        (httpx.ConnectError("Name or service not known"), "Name or service not known", "is the host name right?"),
    ],
)
def test_the_error_without_a_response_is_one_line_with_its_reason(error: Exception, reason: str, hint: str) -> None:
    message = f"cannot reach {URL}: {reason}; {hint}"
    with client_of(error) as node:
        with pytest.raises(NodeUnreachable) as unreachable:
            node.get("/tree")
        assert str(unreachable.value).startswith(message)
        assert unreachable.value.reason == reason
        with pytest.raises(NodeUnreachable, match="cannot reach"), node.stream("/v1/chat/completions", {}):
            pass


def test_a_host_name_that_dns_does_not_allow_is_one_line() -> None:
    assert fails("drain", "x", "--url", "http://a..b", status=2).startswith("cannot reach http://a..b: ")


def test_a_ca_of_the_environment_that_cannot_be_read_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such")
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        NodeClient("https://localhost:1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http_proxy", "gopher://x"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("all_proxy", "socks5://127.0.0.1:1"),
        ("no_proxy", "[::1"),
    ],
)
def test_commands_do_not_use_the_proxy_of_the_environment(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes do not, either: it is for the internet."""
    for variable in (name, name.upper()):
        monkeypatch.setenv(variable, value)
    with Cluster() as cluster, NodeClient(cluster.node("root").url) as node:
        assert node.get("/tree")["name"] == "root"


def test_flags_of_a_certificate_go_together() -> None:
    assert client_tls("/ca", "/cert", "/key") == TlsSpec(ca="/ca", cert="/cert", key="/key")
    with pytest.raises(UsageError, match="--tls-cert and --tls-key go together"):
        client_tls(None, "/cert", None)


def test_the_certificate_of_a_configuration_is_used_where_it_can_be_read(tmp_path: Path) -> None:
    spec = TlsSpec.model_validate(Authority(tmp_path).issue("node"))
    assert readable_tls(spec) == spec
    assert readable_tls(spec.model_copy(update={"key": "/no/key"})) == TlsSpec(ca=spec.ca)


#: Each command that talks to a node, with its arguments; URL and CONFIG are replaced.
COMMANDS = [
    ("chat", "URL", "hello"),
    ("check", "CONFIG", "--live", "URL"),
    ("drain", "a", "--url", "URL"),
    ("token", "revoke", "--node", "a", "--url", "URL"),
    ("undrain", "a", "--url", "URL"),
    ("why", "m", "--url", "URL"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_has_the_same_error_for_an_unreachable_node(command: tuple[str, ...]) -> None:
    config = Path(__file__).parents[2] / "configs" / "demo.yaml"
    arguments = [{"URL": "127.0.0.1:1", "CONFIG": config}.get(argument, argument) for argument in command]
    message = fails(*arguments, status=2)
    assert message.startswith("cannot reach http://127.0.0.1:1: ")
    assert message.endswith("; is the node running?")


def test_keys_from_the_environment_are_sent_to_a_real_node(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with Cluster() as cluster:
        root = cluster.node("root", engines=(cluster.engine().url,), settings=keys.settings())
        eventually(lambda: root.node.ready, "the engine")
        assert program("chat", root.url, "hello", HIERARCHY_API_KEY=keys.client).status == 0
        assert "no API key was sent" in fails("chat", root.url, "hello", status=1)
        with NodeClient(root.url) as node, pytest.raises(NodeRefused, match=f"set {ADMIN_KEY}"):
            node.get("/tree")
        with NodeClient(root.url, key=keys.admin) as node:
            assert node.get("/tree")["name"] == "root"


def test_a_node_that_requires_a_client_certificate_accepts_that_of_the_flags(tmp_path: Path) -> None:
    files = Authority(tmp_path / "tls").issue("node")
    settings = Settings.model_validate({"tls": {**files, "require_client_cert": True}})
    config = NodeConfig(name="root", listen=(("127.0.0.1", 0),), advertise="https://127.0.0.1:0", settings=settings)
    with Cluster() as cluster:
        url = cluster.serve(config).url
        flags = ("--tls-ca", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"])
        assert "answered 404: no child 'x'" in fails("drain", "x", "--url", url, *flags, status=1)
        assert "cannot reach" in fails("drain", "x", "--url", url, *flags[:2], status=2)
        assert "does its CA match" in fails("drain", "x", "--url", url, status=2)

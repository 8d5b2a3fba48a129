"""Web pages, by what their browsers send: what they may not do at a node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.models import NodeConfig
from hierarchy.errors import ForeignOrigin, UnknownHost
from hierarchy.security.browsers import Browsers, is_same

CONFIG = NodeConfig.model_validate({
    "name": "root",
    "listen": [("node.lab.example", 8000), ("0.0.0.0", 8000)],
    "advertise": "http://root.lab.example:8000",
    "urls": ("http://other.lab.example:8000",),
    "settings": {"security": {"allowed_hosts": ["llm.example", "*.teams.example"]}},
})  # fmt: skip
EVIL = b"https://evil.example"


def fields(host: bytes = b"localhost:8000", **others: bytes) -> dict[bytes, bytes]:
    return {b"host": host} | {name.replace("_", "-").encode(): value for name, value in others.items()}


@pytest.fixture
def browsers() -> Browsers:
    return Browsers(CONFIG)


PAGES_ELSEWHERE = [
    fields(origin=EVIL),
    fields(origin=b"http://localhost:3000"),  # another port is another origin: another user's program, perhaps
    fields(origin=b"null"),  # a page in a sandbox, or a file
    fields(sec_fetch_site=b"cross-site"),
    fields(origin=EVIL, sec_fetch_site=b"cross-site"),
    fields(origin=b"http://localhost:8000", sec_fetch_site=b"cross-site"),
    fields(origin=b"moz-extension://1", sec_fetch_site=b"none"),
    fields(origin=b"http://[::1"),  # no URL
]


@pytest.mark.parametrize("sent", PAGES_ELSEWHERE)
@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"PUT", b"PATCH"])
def test_a_page_of_another_origin_changes_nothing(browsers: Browsers, sent: dict[bytes, bytes], method: bytes) -> None:
    with pytest.raises(ForeignOrigin, match="api_keys"):
        browsers.check_client(method, sent)


@pytest.mark.parametrize("sent", PAGES_ELSEWHERE)
def test_a_page_may_link_to_a_node(browsers: Browsers, sent: dict[bytes, bytes]) -> None:
    """It cannot read the answer."""
    browsers.check_client(b"GET", sent)


OWN_PAGES_AND_PROGRAMS = [
    fields(),
    fields(origin=b"http://localhost:8000"),
    fields(origin=b"http://LOCALHOST:8000"),
    fields(b"llm.example", origin=b"https://llm.example"),  # TLS ends at a proxy
    fields(b"llm.example:443", origin=b"https://llm.example"),
    fields(b"10.0.0.1:8000", origin=b"https://llm.example", sec_fetch_site=b"same-origin"),  # and the proxy sets Host
    fields(sec_fetch_site=b"none"),
    {},  # HTTP/1.0
]


@pytest.mark.parametrize("sent", OWN_PAGES_AND_PROGRAMS)
def test_programs_and_a_nodes_own_pages_use_it(browsers: Browsers, sent: dict[bytes, bytes]) -> None:
    browsers.check_client(b"POST", sent)


OWN_HOSTS = [
    "localhost", "localhost:8000", "app.localhost", "127.0.0.1:8000", "[::1]:8000", "[fe80::1]", "10.1.0.1", "gpu-17",
    "gpu-17.local", "root:8000", "root.default.svc.cluster.local:8000", "metadata.internal", "nas.home.arpa",
    "node.lab.example:8000", "root.lab.example", "other.lab.example:1", "llm.example", "LLM.example.:80",
    "a.teams.example", "a.b.teams.example:443",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_a_node_without_keys_answers_where_it_is(browsers: Browsers, host: str) -> None:
    browsers.check_client(b"POST", fields(host.encode()))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "teams.example", "llm.example.evil.example", "127.0.0.1.evil.example"]
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_name_that_was_made_to_point_here_is_refused(browsers: Browsers, host: str, method: bytes) -> None:
    with pytest.raises(UnknownHost, match=f"{host}.*allowed_hosts"):
        browsers.check_client(method, fields(host.encode(), origin=f"http://{host}".encode()))


def test_no_page_is_a_child(browsers: Browsers) -> None:
    browsers.check_child(fields(b"evil.example"))  # a worker reaches a node by any name
    browsers.check_child(fields(sec_fetch_site=b"none"))
    for sent in [*PAGES_ELSEWHERE, fields(origin=b"http://localhost:8000"), fields(sec_fetch_site=b"same-origin")]:
        with pytest.raises(ForeignOrigin, match="may not register"):
            browsers.check_child(sent)


@given(st.text(), st.text())
def test_any_text_is_judged(origin: str, host: str) -> None:
    is_same(origin, host)
    Browsers(CONFIG).is_own(host)

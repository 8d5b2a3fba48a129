"""Addresses and URLs: what is accepted, and the hints for what is not."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchy.config.address import host_of, is_loopback, is_wildcard, overlaps, parse_address, parse_url, url_of


def refusal(parse: Callable[[str], object], text: str) -> tuple[str, str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller checks the message
        parse(text)
    message, hint = caught.value.args
    return message, hint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:21002", ("localhost", 21002)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:21001", ("::1", 21001)),
        ("[::]", ("::", 21001)),
        ("gpu-box.example", ("gpu-box.example", 21001)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_good_addresses_are_parsed(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("21001", "has no host", '"localhost:21001"'),
        (":8000", "has no host", '"0.0.0.0:8000"'),
        ("", "has no host", '"localhost:21001"'),
        ("::1", "IPv6 address without brackets", '"[::1]:21001"'),
        ("[::g]:1", "not a valid IP address", "IP address"),
        ("[localhost]:1", "not a valid IP address", "IP address"),
        ("10.0.0.300:1", "not a valid IP address", "IP address"),
        ("a b:1", "not a valid host name", "host name"),
        ("host:65536", "too large", "65535"),
        ("host:", "not an address", "host:port"),
        ("host:x", "not an address", "host:port"),
        ("http://10.0.0.1:1", "not an address", "host:port"),
        ("host:٣", "not an address", "host:port"),
    ],
)
def test_bad_addresses_have_a_hint(text: str, message: str, hint: str) -> None:
    found_message, found_hint = refusal(parse_address, text)
    assert message in found_message
    assert hint in found_hint


@pytest.mark.parametrize(
    ("text", "url", "address"),
    [
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000", ("10.0.0.1", 8000)),
        ("http://10.0.0.1:8000/", "http://10.0.0.1:8000", ("10.0.0.1", 8000)),
        ("https://gpu.example", "https://gpu.example", ("gpu.example", 443)),
        ("http://[fd00::1]:80", "http://[fd00::1]:80", ("fd00::1", 80)),
    ],
)
def test_good_urls_are_accepted(text: str, url: str, address: tuple[str, int]) -> None:
    assert parse_url(text) == (url, address)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host:1", "not an http(s) URL"),
        ("host:8000", "not an http(s) URL"),
        ("", "not an http(s) URL"),
        ("http://", "has no host"),
        ("http://:8000", "has no host"),
        ("http://host:0", "has no port"),
        ("http://host:99999", "not a URL"),
        ("http://host:x", "not a URL"),
        ("http://[::1:80", "not a URL"),
        ("http://a b:80", "not a valid host name"),
        ("http://10.0.0.256:80", "not a valid IP address"),
        ("http://host:8000/v1", "more than scheme, host and port"),
        ("http://host:8000?x=1", "more than scheme, host and port"),
        ("http://user:pw@host:8000", "more than scheme, host and port"),
    ],
)
def test_bad_urls_have_a_hint(text: str, message: str) -> None:
    found_message, found_hint = refusal(parse_url, text)
    assert message in found_message
    assert "http://host:port" in found_hint or "IP address" in found_hint


@given(st.one_of(st.text(), st.from_regex(r"\A(http|ftp)s?://[\[\]:/@.0-9a-z%]*\Z")))
def test_any_text_is_parsed_or_refused_with_a_hint(text: str) -> None:
    for parse in (parse_address, parse_url):
        try:
            parse(text)
        except ValueError as error:
            message, hint = error.args
            assert all((message, hint, "\n" not in message))


@given(st.ip_addresses().map(str), st.integers(1, 65535))
def test_the_url_of_an_address_has_that_address(host: str, port: int) -> None:
    assert parse_url(url_of((host, port))) == (url_of((host, port)), (host, port))
    assert host_of(url_of((host, port))) == host


def test_a_node_that_has_not_started_may_have_port_0() -> None:
    assert host_of(url_of(("::1", 0))) == "::1"


def test_wildcard_and_loopback_hosts() -> None:
    assert [host for host in ("0.0.0.0", "::", "10.0.0.1", "all") if is_wildcard(host)] == ["0.0.0.0", "::"]
    loopback = ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1"]
    assert [host for host in [*loopback, "10.0.0.1", "host"] if is_loopback(host)] == loopback


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["localhost", "LocalHost"], [(0, 1)]),
        (["localhost", "127.0.0.1", "::1"], [(0, 1), (0, 2)]),
        (["0.0.0.0", "10.0.0.1", "::", "::1"], [(0, 1), (2, 3)]),
        (["0.0.0.0", "localhost"], [(0, 1)]),
        (["::", "localhost"], [(0, 1)]),
        (["127.0.0.1", "127.0.0.2", "host", "other"], []),
    ],
)
def test_addresses_at_which_one_process_cannot_listen_together(
    hosts: list[str], expected: list[tuple[int, int]]
) -> None:
    assert list(overlaps([(host, 9) for host in hosts])) == expected
    assert list(overlaps([(host, 0) for host in hosts])) == []
    assert list(overlaps([(host, 9 + i) for i, host in enumerate(hosts)])) == []


def test_what_overlaps_cannot_be_bound_together() -> None:
    """The rule is that of the kernel, for addresses that every machine has."""
    for hosts in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "127.0.0.1")):
        with socket.socket() as first, socket.socket() as second:
            for sock in (first, second):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind((hosts[0], 0))
            first.listen()
            port = first.getsockname()[1]
            try:
                second.bind((hosts[1], port))
                second.listen()
            except OSError:
                works = False
            else:
                works = True
        assert works != bool(list(overlaps([(hosts[0], port), (hosts[1], port)]))), hosts

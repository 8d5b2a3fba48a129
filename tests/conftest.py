"""Settings and fixtures for all tests."""

from __future__ import annotations

import functools
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx._transports.default
import pytest
from hypothesis import HealthCheck, settings

from tests.certificates import Authority
from tests.cluster import Cluster

pytest_plugins = ["tests.skips"]

# An example has no time limit: it says nothing on a busy machine.
settings.register_profile("all", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("all"), max_examples=40)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if config.getoption("--quick") else "all")
    _share_tls_contexts()
    _heed_signals()


def _heed_signals() -> None:
    """Undo what `nohup` and a shell's `&` do: the programs that tests start inherit it, and shall end by signals."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def _share_tls_contexts() -> None:
    """Let all clients of httpx with the same options share one TLS context, which takes 30 ms of CPU time to make."""

    @functools.cache
    def make(options: tuple[Any, ...], environment: tuple[str | None, ...]) -> ssl.SSLContext:
        return httpx.create_ssl_context(*options)

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        return make((verify, cert, trust_env), (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")))

    vars(httpx._transports.default)["create_ssl_context"] = shared


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Starts nodes and engines in this process, and stops them after the test."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority."""
    return Authority(tmp_path / "ca")

"""Certificates that expire, and those that replace them while a node runs."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hierarchy.config.blocks import TlsSpec
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.security.access import Access
from hierarchy.security.tls import TlsContexts
from tests.certificates import Authority
from tests.support import at_once

NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Files:
    """The certificate of a node, which the test replaces."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.now = NOW.timestamp()
        self.issue(days=90)
        self.spec = TlsSpec.model_validate(self.paths)

    def issue(self, days: float, begins: float = -1) -> None:
        """Put a certificate there that begins and ends so many days from `NOW`."""
        made = self.authority.ca.issue_cert(
            "127.0.0.1", not_before=NOW + timedelta(days=begins), not_after=NOW + timedelta(days=days)
        )
        self.paths = {name: str(self.authority.folder / f"node.{name}") for name in ("cert", "key")}
        for name, content in (("cert", made.cert_chain_pems[0]), ("key", made.private_key_pem)):
            new = self.authority.folder / "new"
            new.write_bytes(content.bytes())
            new.chmod(0o600)
            os.replace(new, self.paths[name])  # noqa: PTH105

    def days_left(self, contexts: TlsContexts) -> float:
        return round(contexts.lifetimes["cert"].days_left(self.now), 1)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "ca")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.INFO]


def test_an_expired_certificate_does_not_replace_a_valid_one(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = TlsContexts(files.spec, lambda: files.now)
    files.issue(days=-0.5)
    at_once(contexts.refresh())
    at_once(contexts.refresh())
    assert messages(caplog) == [
        f"{files.spec.cert}: the new certificate expired on 2026-05-31 12:00 UTC; the certificate that was read before "
        "stays in use"
    ]
    assert files.days_left(contexts) == 90
    files.issue(days=200)
    at_once(contexts.refresh())
    assert messages(caplog)[1:] == [f"{files.spec.cert}: the new certificate is in use"]
    assert files.days_left(contexts) == 200


def test_a_certificate_of_the_future_is_used_when_it_begins(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = TlsContexts(files.spec, lambda: files.now)
    files.issue(days=300, begins=1)
    at_once(contexts.refresh())
    at_once(contexts.refresh())
    assert len(messages(caplog)) == 1
    assert "is not valid before 2026-06-02 00:00 UTC" in messages(caplog)[0]
    files.now += 86400
    at_once(contexts.refresh())
    at_once(contexts.refresh())
    assert messages(caplog)[1:] == [f"{files.spec.cert}: the new certificate is in use"]


def test_a_node_that_starts_with_an_expired_certificate_says_so(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.issue(days=-1, begins=-10)
    tls = TlsSpec.model_validate({**files.paths, "ca": str(files.authority.ca_file)})
    config = NodeConfig(name="root", advertise="https://127.0.0.1:1", settings=Settings(tls=tls))
    access = Access(config, {}, lambda: files.now)
    access.expire()
    access.expire()
    assert messages(caplog) == [
        f"the certificate {tls.cert} expired on 2026-05-31 00:00 UTC: others do not accept it; renew it: replace its "
        "files, and the node reads them"
    ]
    (warning,) = access.warnings()
    assert "expired on 2026-05-31" in warning
    gauges = {(name, labels): value for name, labels, value in access.gauges()}
    assert gauges["hierarchy_certificate_days_left", ("cert",)] == -1
    assert gauges["hierarchy_certificate_days_left", ("ca",)] > 300

from __future__ import annotations

import io

import pytest

from hierarchy.cli.flags import flags_of
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import NodeConfig, Settings

BASE = NodeConfig(
    name="n",
    advertise="http://n:1",
    settings=Settings(security=SecuritySpec(api_keys="file:a", join_token="file:old"), tls=TlsSpec(ca="/ca.pem")),
)


def test_flags_go_over_what_the_file_says() -> None:
    config = flags_of(cleartext=True, join_token_file="new", allow=["10.0.0.0/8"], api_keys=None).over(BASE)
    assert config.settings.security == SecuritySpec(
        api_keys="file:a", join_token="file:new", cleartext=True, allow=["10.0.0.0/8"]
    )
    assert flags_of().over(BASE) == BASE


def test_an_address_that_was_not_said_is_https_with_a_certificate_only() -> None:
    flags = flags_of(tls_cert="/c", tls_key="/k")
    assert flags.over(BASE, advertised=False).advertise == "https://n:1"
    assert flags.over(BASE).advertise == "http://n:1"
    assert flags_of(tls_ca="/ca").over(BASE, advertised=False).advertise == "http://n:1"


def test_a_token_from_stdin_goes_before_one_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("token\n"))
    flags = flags_of(join_token_file="-")
    assert flags.environ()["HIERARCHY_JOIN_TOKEN"] == "token"
    assert flags.over(BASE).settings.security.join_token == "env:HIERARCHY_JOIN_TOKEN"


def test_what_holds_for_every_node_of_a_tree() -> None:
    assert flags_of(insecure=True, cleartext=True).as_arguments() == ["--insecure", "--cleartext"]
    assert flags_of(insecure=True).given() == []
    assert flags_of(api_keys="x", tls_ca="y", admin_listen="z").given() == ["--api-keys", "--admin-listen", "--tls-ca"]

"""What the flags of `serve` and `up` do to a node's configuration."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from hierarchy.cli.flags import split_models
from hierarchy.cli.node_flags import NodeFlags
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.errors import UsageError

BASE = NodeConfig(
    name="n",
    advertise="http://n:1",
    settings=Settings(security=SecuritySpec(api_keys="file:a", join_token="file:old"), tls=TlsSpec(ca="/ca.pem")),
)


def test_flags_override_the_configuration() -> None:
    config = NodeFlags(cleartext=True, join_token_file="new", allow=["10.0.0.0/8"], log_format="json").over(BASE)
    assert config.settings.security == SecuritySpec(
        api_keys="file:a", join_token="file:new", cleartext=True, allow=["10.0.0.0/8"]
    )
    assert config.settings.tls == TlsSpec(ca="/ca.pem")
    assert (config.settings.log_format, BASE.settings.log_format) == ("json", "text")
    assert NodeFlags().over(BASE) == BASE


def test_a_node_from_flags_alone() -> None:
    config = NodeFlags(port=7, dispatch_method="p2c", admin_listen="localhost:8", key_file="k").config("n")
    assert (config.name, config.advertise, config.admin) == ("n", "http://localhost:7", (("localhost", 8),))
    assert config.settings.dispatch == "p2c"
    assert config.settings.security.key == "file:k"


def test_the_urls_of_replicas_and_a_second_key() -> None:
    flags = NodeFlags(replica=True, replica_url=["https://b:2", "http://c:3"], key_file="k", accepted_key_file="old")
    config = flags.config("n")
    assert config.replicas == ("https://b:2", "http://c:3")
    assert config.settings.security.accepted_key == "file:old"
    with pytest.raises(UsageError, match="--replica-url: this node has no other instances; add --replica"):
        replace(flags, replica=False).config("n")
    with pytest.raises(UsageError, match="--replica-url 'x://y'"):
        replace(flags, replica_url=["x://y"]).config("n")


def test_with_a_certificate_the_url_is_https_unless_it_was_given() -> None:
    flags = NodeFlags(port=1, tls_cert="/c", tls_key="/k")
    assert flags.config("n").advertise == "https://localhost:1"
    assert replace(flags, advertise="http://n:1").config("n").advertise == "http://n:1"
    assert NodeFlags(port=1, tls_ca="/ca").config("n").advertise == "http://localhost:1"


def test_a_token_from_stdin_overrides_that_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("token\n"))
    flags = NodeFlags(join_token_file="-")
    assert flags.environ()["HIERARCHY_JOIN_TOKEN"] == "token"
    assert flags.over(BASE).settings.security.join_token == "env:HIERARCHY_JOIN_TOKEN"


def test_flags_of_up_are_handed_to_each_node() -> None:
    assert NodeFlags(insecure=True, cleartext=True).as_arguments() == ["--insecure", "--cleartext"]
    assert NodeFlags().as_arguments() == []


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (NodeFlags(insecure=True, cleartext=True, log_format="json", join_token_file="t"), ""),
        (NodeFlags(port=0), "--port"),
        (NodeFlags(api_keys="x", tls_ca="y", admin_listen="z"), "--api-keys, --admin-listen, --tls-ca"),
        (NodeFlags(parent=["http://a:1"], require_client_cert=True), "--parent, --require-client-cert"),
    ],
)
def test_flags_that_replace_a_configuration_are_refused_beside_one(flags: NodeFlags, names: str) -> None:
    if not names:
        return flags.refuse_with_config(Path("tree.yaml"))
    with pytest.raises(UsageError) as refused:
        flags.refuse_with_config(Path("tree.yaml"))
    assert str(refused.value) == f"{names}: not together with CONFIG; write it into tree.yaml"
    return None


def test_models_are_names_separated_by_commas() -> None:
    assert split_models(None) is None
    assert split_models(" a, b,") == ["a", "b"]
    with pytest.raises(UsageError, match="--models"):
        split_models(",")

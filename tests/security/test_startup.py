"""Which configurations a node starts with, and the errors for the others."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.errors import UsageError
from hierarchy.runtime import folders
from hierarchy.runtime.files import write_private_file
from hierarchy.security.access import Access
from hierarchy.security.keys import revoke_keys
from hierarchy.security.secret import JOIN_TOKEN, folder_exposure
from hierarchy.security.startup import check_state_dir, clean_state_dir, log_risks, security_refusals
from hierarchy.security.state import state_dir
from tests.certificates import Authority
from tests.security.keyed import Keys

OUTSIDE = (("10.0.0.10", 21001),)
GPU = EngineConfig(name="gpu", kind="vllm", url="http://10.0.0.11:8000")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def start(security: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **fields: Any) -> Access:
    tls = fields.pop("tls", {})
    settings = Settings.model_validate({"security": {"state_dir": "/no/such", **(security or {})}, "tls": tls})
    config = NodeConfig(name="root", advertise="http://10.0.0.10:21001", settings=settings, **fields)
    access = Access(config, environ or {})
    for refusal in security_refusals(config, environ or {}):
        if refusal.field != ("security", "state_dir"):  # there is none
            raise UsageError(refusal.line(config.name))
    return access


@pytest.mark.parametrize("listen", [(), (("127.0.0.1", 1),), (("::1", 1), ("localhost", 1)), (("127.9.9.9", 1),)])
def test_on_loopback_everything_is_open_without_configuration(listen: Any) -> None:
    access = start(**({"listen": listen} if listen else {}))
    assert not access.exposed
    assert not access.requires_api_key
    assert not access.requires_admin_key
    assert not access.registration_policy.in_force
    assert access.stripped_fields == frozenset()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.10", "fe80::1", "node.example", "192.0.2.1"])
def test_a_node_that_others_can_reach_does_not_start_without_keys(host: str) -> None:
    with pytest.raises(
        UsageError, match=r"node root does not start: others can reach .* no API keys for clients; .*insecure"
    ):
        start(listen=(("127.0.0.1", 1), (host, 21001)))


def test_an_empty_file_of_api_keys_closes_the_paths_of_operators_too(keys: Keys) -> None:
    revoke_keys(keys.folder / "api.yaml", name="alice")
    access = start({"api_keys": keys.spec()["api_keys"]})
    assert access.requires_api_key
    assert access.requires_admin_key


def test_each_missing_setting_is_named_in_turn(keys: Keys) -> None:
    api = {"api_keys": keys.spec()["api_keys"]}
    with pytest.raises(UsageError, match=r"no key to check its children's tokens; .*hierarchy token key"):
        start(api, listen=OUTSIDE)
    with pytest.raises(UsageError, match="no key to check its children's tokens"):
        start(api, listen=OUTSIDE, engines=(GPU,), children=("site-a",))
    with pytest.raises(UsageError, match=r"without TLS; set `tls`.*--cleartext"):
        start(api | {"key": keys.spec()["key"]}, listen=OUTSIDE)
    with pytest.raises(UsageError, match="without TLS"):
        start(api, listen=OUTSIDE, engines=(GPU,))
    assert start(api | {"cleartext": True}, listen=OUTSIDE, engines=(GPU,)).requires_api_key
    assert start({**keys.spec(), "cleartext": True}, listen=OUTSIDE).registration_policy.in_force
    assert start(keys.spec(), listen=OUTSIDE, tls=Authority(keys.folder / "ca").issue("root")).tls.server


def test_an_admin_address_that_others_can_reach_needs_keys_too(keys: Keys) -> None:
    with pytest.raises(UsageError, match=r"10.0.0.10:21001"):
        start(admin=OUTSIDE)


def test_a_node_with_a_token_and_no_keys_serves_only_its_parents() -> None:
    access = start(
        {"cleartext": True}, {JOIN_TOKEN: "t"}, listen=OUTSIDE, engines=(GPU,), parents=("https://10.0.0.1:1",)
    )
    assert access.requires_api_key
    assert "serves no clients" in access.identify_caller({b"authorization": b"Bearer x"}).refusal
    with pytest.raises(UsageError, match="no API keys for clients"):
        start({"cleartext": True}, listen=OUTSIDE, engines=(GPU,), parents=("https://10.0.0.1:1",))


def test_a_parent_without_tls_needs_cleartext() -> None:
    with pytest.raises(UsageError, match=r"it would connect to its parent http://10.0.0.1:1 without TLS"):
        start(parents=("http://10.0.0.1:1",))
    start(parents=("http://127.0.0.1:1", "https://10.0.0.1:1"))
    start({"cleartext": True}, parents=("http://10.0.0.1:1",))


def test_insecure_is_logged_and_keys_that_are_set_are_enforced(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    open_access = start({"insecure": True}, listen=OUTSIDE, parents=("http://10.0.0.1:1",))
    assert not open_access.requires_api_key
    assert not open_access.requires_admin_key
    assert not open_access.registration_policy.in_force
    assert start({"insecure": True, "api_keys": keys.spec()["api_keys"]}, listen=OUTSIDE).requires_api_key
    settings = Settings.model_validate({"security": {"insecure": True}})
    config = NodeConfig(name="root", advertise="http://x", listen=OUTSIDE, settings=settings)
    with caplog.at_level(logging.WARNING):
        log_risks(config, open_access)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.count("insecure") == 1


@pytest.mark.parametrize(
    ("shares", "has_keys", "parents", "warned"),
    [
        (False, False, (), True),
        (False, True, (), False),
        (False, False, ("http://p:1",), False),
        (True, False, (), False),
    ],
)
def test_callers_are_kept_apart_by_their_keys_only(
    shares: bool, has_keys: bool, parents: tuple[str, ...], warned: bool, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {"api_keys": keys.spec()["api_keys"]} if has_keys else {}
    settings = Settings.model_validate({"security": {"cleartext": True, **spec}, "share_prefixes": shares})
    config = NodeConfig(name="n", advertise="http://x", settings=settings, parents=parents)
    with caplog.at_level(logging.WARNING):
        log_risks(config, Access(config, {}))
    assert ("no callers are kept apart" in caplog.text) is warned


def test_workers_without_tokens_need_allow() -> None:
    with pytest.raises(UsageError, match="`tokenless_workers` accepts workers by their addresses; set `allow`"):
        start({"tokenless_workers": True})


@pytest.mark.parametrize(
    ("security", "message"),
    [
        ({"key": "env:NOPE"}, "NOPE"),
        ({"key": "env:BAD"}, "not a tree key"),
        ({"api_keys": "file:/no/keys.yaml"}, "/no/keys.yaml"),
        ({"admin_keys": "file:/no/keys.yaml"}, "/no/keys.yaml"),
    ],
)
def test_the_error_for_an_unusable_key_is_one_line(security: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        start(security, {"BAD": "s3cr3t"})
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_the_error_for_an_unusable_certificate_is_one_line(tmp_path: Path) -> None:
    good, other = Authority(tmp_path).issue("good"), Authority(tmp_path / "o").issue("other")
    text = tmp_path / "text"
    text.write_text("no PEM")
    text.chmod(0o600)
    cases = [
        ({**good, "cert": "/no/cert.pem"}, "/no/cert.pem: cannot be read"),
        ({**good, "key": "/no/key.pem"}, "/no/key.pem: cannot be read"),
        ({**good, "ca": "/no/ca.pem"}, "/no/ca.pem: cannot be read"),
        ({**good, "key": other["key"]}, "do not belong together"),
        ({**good, "cert": str(text)}, "are not a PEM certificate and private key"),
        ({**good, "key": str(text)}, "are not a PEM certificate and private key"),
        ({"ca": str(text)}, "contains no PEM certificates"),
    ]
    for tls, message in cases:
        with pytest.raises(UsageError, match=message) as caught:
            start(tls=tls)
        assert "\n" not in str(caught.value)
    Path(good["key"]).chmod(0o644)
    with pytest.raises(UsageError, match="others may read this secret"):
        start(tls=good)


def test_each_node_has_its_own_state_folder() -> None:
    config = NodeConfig(name="n", advertise="http://n")
    assert state_dir(config, {"STATE_DIRECTORY": "/var/lib/h:/x"}) == Path("/var/lib/h/n")
    assert state_dir(config, {"XDG_STATE_HOME": "/s"}) == Path("/s/hierarchy/n")
    assert state_dir(config, {}) == folders.state_folder({}) / "n"


def _no_home(*_: object) -> Path:
    raise UsageError("this user has no home folder for its state; set `security.state_dir`")


def test_a_home_folder_is_needed_only_for_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_in_home", _no_home)
    Access(NodeConfig(name="n", advertise="http://n"), {})
    with pytest.raises(UsageError, match=r"set `security\.state_dir`"):
        Access(NodeConfig(name="n", advertise="http://n", parents=("http://127.0.0.1:1",)), {})


@pytest.mark.parametrize("role", ["parent", "child"])
def test_a_node_that_cannot_write_its_state_does_not_start(keys: Keys, role: str) -> None:
    (keys.folder / "bad").mkdir()
    (keys.folder / "bad" / "root").symlink_to("nowhere")  # even root cannot write there
    security: dict[str, Any] = {"state_dir": str(keys.folder / "bad")}
    if role == "parent":
        security |= {"key": keys.spec()["key"]}
    else:
        security |= {"join_token": keys.token_file("root")}
    parents = ("http://127.0.0.1:1",) if role == "child" else ()
    settings = Settings.model_validate({"security": security})
    config = NodeConfig(name="root", advertise="http://127.0.0.1:1", settings=settings, parents=parents)
    with pytest.raises(UsageError, match=r"its state cannot be written to .*bad/root .*; set `state_dir`"):
        check_state_dir(config, Access(config, {}), {})
    good = security | {"state_dir": str(keys.folder / "good")}
    config = config.model_copy(update={"settings": Settings.model_validate({"security": good})})
    check_state_dir(config, Access(config, {}), {})
    assert list((keys.folder / "good" / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "mode", "user", "why"),
    [
        (1000, 0o700, 1000, ""),
        (0, 0o755, 1000, ""),
        (0, 0o1777, 1000, ""),
        (1000, 0o700, 0, ""),  # a folder of the host in a container
        (1000, 0o2775, 1000, ""),
        (1001, 0o700, 1000, "it belongs to another user, 1001"),
        (1001, 0o1777, 1000, "it belongs to another user, 1001"),
        (1000, 0o777, 1000, "every user may write to it"),
        (0, 0o777, 1000, "every user may write to it"),
    ],
)
def test_who_else_may_replace_the_state_of_a_node(owner: int, mode: int, user: int, why: str) -> None:
    assert folder_exposure(os.stat_result((0o040000 | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0)), user) == why


def test_a_node_does_not_start_with_a_state_folder_that_all_may_write_to(keys: Keys) -> None:
    folder = keys.folder / "state" / "root"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    security = {"state_dir": str(keys.folder / "state"), "key": keys.spec()["key"]}
    settings = Settings.model_validate({"security": security})
    config = NodeConfig(name="root", advertise="http://127.0.0.1:1", settings=settings)
    why = r"not safe in .*state/root: every user may write to it; make it this user's own \(chown, chmod 700\)"
    with pytest.raises(UsageError, match=why):
        check_state_dir(config, Access(config, {}), {})
    folder.chmod(0o700)
    check_state_dir(config, Access(config, {}), {})


def test_what_a_killed_process_was_writing_in_the_state_folder_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate({"security": {"state_dir": str(tmp_path)}})
    config = NodeConfig(name="root", advertise="http://127.0.0.1:1", settings=settings)
    clean_state_dir(config, {}, time.time())  # there is no folder yet
    write_private_file(tmp_path / "root" / "credential", "kept")
    write_private_file(tmp_path / "root" / ".credential.abc_1234", "half of a secret")
    with caplog.at_level(logging.INFO):
        clean_state_dir(config, {}, time.time() + 60)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["credential"]
    assert caplog.messages == [
        f"{tmp_path}/root: removed .credential.abc_1234, which a killed process had not finished"
    ]

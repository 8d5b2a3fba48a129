"""What doctor says of a node's records, certificates and credential."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hierarchy.config.models import NodeConfig, Settings
from hierarchy.doctor.finding import Finding, Verdict
from hierarchy.doctor.upkeep import check_upkeep
from hierarchy.runtime.expiry import DAY_S
from hierarchy.runtime.files import write_private_file
from hierarchy.security.token_store import TokenStore
from hierarchy.security.tokens import Signer, parent_key
from tests.certificates import Authority
from tests.security.keyed import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def examined(config: NodeConfig, days: float = 0) -> list[Finding]:
    return check_upkeep(config, {}, lambda: time.time() + days * DAY_S)


def test_records_that_are_there_missing_or_incomplete(keys: Keys) -> None:
    (found,) = examined(keys.config())
    assert (found.verdict, "does not exist" in found.what) == (Verdict.WARN, True)
    assert not (keys.folder / "state" / "root").exists(), "doctor writes nothing"
    store = TokenStore(keys.folder / "state" / "root" / "state.json")
    store.revoke("site-a")
    (found,) = examined(keys.config())
    assert (found.verdict, found.what.endswith("0 used tokens, 1 revocations")) == (Verdict.OK, True)
    store.note_credential(1.0)
    store.refresh()
    replicated = keys.config().model_copy(update={"replicas": ("http://127.0.0.1:1",)})
    for config in (keys.config(), replicated):
        (found,) = examined(config)
        assert found.verdict is Verdict.FAIL
        assert "records of used tokens and revocations are lost" in found.what
        assert "hierarchy state confirm" in found.hint


def test_certificates_and_credentials_that_expire(keys: Keys, tmp_path: Path) -> None:
    signer = Signer("root", parent_key(keys.tree, "root"))
    credential = signer.credential(signer.check(signer.join_token("site-a", 60)))
    write_private_file(keys.folder / "state" / "site-a" / "credential", credential)
    settings = Settings.model_validate(
        {"security": {"state_dir": str(keys.folder / "state")}, "tls": Authority(tmp_path / "ca").issue("node")}
    )
    config = NodeConfig(name="site-a", advertise="https://127.0.0.1:1", parents=("https://r:1",), settings=settings)
    for days, verdict in ((0, Verdict.OK), (80, Verdict.WARN), (91, Verdict.FAIL)):
        found = {finding.what.split()[1]: finding for finding in examined(config, days)}
        assert set(found) == {"certificate", "CA", "credential"}
        assert found["credential"].verdict is verdict
    assert examined(config)[-1].what == "the credential of this node is valid for 90 days"


def test_what_keeps_the_node_from_starting_is_left_to_another_check(keys: Keys) -> None:
    assert examined(keys.config(key="file:/nonexistent")) == []

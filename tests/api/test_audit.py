"""The audit log: a line for people, and fields for programs."""

from __future__ import annotations

import json
import logging

import pytest

from hierarchy.api import audit
from hierarchy.errors import ChildFailed, LastEngine
from hierarchy.runtime.logs import JsonFormatter, TextFormatter
from tests.api.support import Api


def test_a_line_has_who_what_why_and_the_result(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.audit")
    with audit.line("drain", "site-a/gpu", "ann from 10.0.0.5", "new GPU\nforged"):
        pass
    (line,) = caplog.records
    fields = json.loads(JsonFormatter("root").format(line))
    assert {key: fields[key] for key in ("logger", "action", "target", "by", "reason", "result")} == {
        "logger": "hierarchy.audit",
        "action": "drain",
        "target": "site-a/gpu",
        "by": "ann from 10.0.0.5",
        "reason": "new GPU\nforged",
        "result": "done",
    }
    text = TextFormatter("root").format(line)
    assert text.endswith("INFO root: drain site-a/gpu by ann from 10.0.0.5 (new GPU\\nforged): done")


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (LastEngine("it is the last"), "refused: it is the last"),
        (ChildFailed("site-a reset the connection"), "not confirmed: site-a reset the connection"),
        (ValueError("a defect"), "failed"),
    ],
)
def test_a_command_that_fails_has_a_line_too(error: Exception, result: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.audit")
    with pytest.raises(type(error)), audit.line("drain", "gpu", "ann"):
        raise error
    assert caplog.messages == [f"drain gpu by ann: {result}"]


def test_a_revocation_is_audited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.audit")
    assert Api().request("POST", "/admin/revoke", json={"node": "site-a"}).status_code == 403
    (line,) = [record.getMessage() for record in caplog.records if record.name == "hierarchy.audit"]
    assert line.startswith("revoke site-a by 127.0.0.1: refused: ")

"""The audit log: a line for people, and fields for programs."""

from __future__ import annotations

import json
import logging

import pytest

from hierarchy.drain import audit
from hierarchy.runtime.logs import JsonFormatter, TextFormatter


def test_a_line_has_who_what_why_and_the_result(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hierarchy.audit")
    audit.record("drain", "site-a/gpu", "ann from 10.0.0.5", "new GPU\nforged", "done")
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

"""Messages of earlier releases, and possible ones of later releases: one tree may have nodes of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hierarchy.relay.downstream.head_cache import split
from hierarchy.wire.messages import Accepted, Deregistration, HeartBeat, Registration, decode
from tests.builders import Table, heart_beat, registration

RELEASES = sorted(path for path in (Path(__file__).parents[1] / "data" / "wire").iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def message(release: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release / f"{name}.json").read_text())
    return found


def test_a_child_of_that_release_registers_reports_drains_and_leaves(release: Path) -> None:
    table = Table()
    child = table.add(message(release, "registration"))
    assert (child.name, child.version, child.state(table.clock())) == ("site-a", "0.1.0", "up")
    assert child.build == ""  # it sends none
    assert (table.status().speed, table.status().queue_length) == (5.0, 3)
    assert table.receive(message(release, "report"))
    assert table.status().queue_length == 4
    assert child.subtree["gpu-1"]["queue_length"] == 4
    if (release / "draining.json").exists():
        assert table.receive(message(release, "draining"))
        assert child.state(table.clock()) == "draining"
        assert table.available_names() == set()
    deregistration = decode((release / "deregistration.json").read_bytes(), Deregistration)
    assert table.depart("site-a", deregistration.instance) is child


def test_the_response_of_a_parent(release: Path) -> None:
    assert decode((release / "accepted.json").read_bytes(), Accepted).interval_s == 1.0


def test_a_request_from_a_parent(release: Path) -> None:
    found = split((release / "request.http").read_bytes().replace(b"\n", b"\r\n"))
    assert found is not None
    assert (found.seq, found.left_ms, found.length) == (18, 29500, 13)


def test_fields_of_a_later_release_are_ignored(release: Path) -> None:
    later = {"next": {"a": [1]}, "extra": None}
    table = Table()
    table.register(registration({**message(release, "registration"), **later}))
    assert table.heart_beat(heart_beat({**message(release, "report"), **later}))
    assert decode(json.dumps({**message(release, "accepted"), **later}).encode(), Accepted).node == "root"


def test_messages_of_this_release_have_all_recorded_fields() -> None:
    newest = RELEASES[-1]
    kept = message(newest, "registration").keys()
    assert kept <= set(Registration.__struct_fields__)
    assert message(newest, "report").keys() <= set(HeartBeat.__struct_fields__)

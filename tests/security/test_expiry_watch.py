"""Warnings of what expires: once when it is near, once when it has happened."""

from __future__ import annotations

import pytest

from hierarchy.runtime.expiry import DAY_S, Lifetime
from hierarchy.security.expiry_watch import ExpiryWatch
from tests.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_stage_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = {"certificate a.crt": Lifetime(0.0, 1000.0 + 90 * DAY_S)}
    watch = ExpiryWatch(lambda: found, clock)
    for days, levels, warnings in ((0, [], 0), (75.9, [], 0), (76.1, ["WARNING"], 1), (90, ["WARNING", "ERROR"], 1)):
        clock.now = 1000.0 + days * DAY_S
        watch.check()
        watch.check()
        assert [record.levelname for record in caplog.records] == levels
        assert len(watch.warnings()) == warnings
    hint = "renew it: replace its files, and the node reads them"
    assert [record.message for record in caplog.records] == [
        f"the certificate a.crt expires on 1970-04-01 00:16 UTC, in 13.9 days; {hint}",
        f"the certificate a.crt expired on 1970-04-01 00:16 UTC: others do not accept it; {hint}",
    ]
    found["certificate a.crt"] = Lifetime(0.0, clock() + 90 * DAY_S)
    watch.check()
    assert (len(caplog.records), watch.warnings()) == (2, [])


@pytest.mark.parametrize(
    ("life_days", "days_left", "stage"),
    [
        (365, 14.1, "valid"),
        (365, 13.9, "expires soon"),
        (7, 2, "valid"),
        (7, 1.7, "expires soon"),
        (1, 0.3, "valid"),
        (1, 0, "expired"),
        (1, 1.1, "not yet valid"),
    ],
)
def test_a_short_life_is_near_its_end_in_its_last_quarter(life_days: float, days_left: float, stage: str) -> None:
    life = Lifetime(0.0, life_days * DAY_S)
    assert life.stage((life_days - days_left) * DAY_S) == stage


def test_a_certificate_that_begins_in_the_future_is_an_error(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    ExpiryWatch(lambda: {"CA certificate ca.pem": Lifetime(clock() + 10, clock() + DAY_S)}, clock).check()
    assert "is not valid before" in caplog.text

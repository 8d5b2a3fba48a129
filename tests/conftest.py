"""For all tests: examples of Hypothesis have no time limit each, since a busy machine is no defect."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.skips"]

settings.register_profile("hierarchy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hierarchy")

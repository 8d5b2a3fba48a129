"""Settings and fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.cluster import Cluster

pytest_plugins = ["tests.skips"]

# An example has no time limit: it says nothing on a busy machine.
settings.register_profile("hierarchy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hierarchy")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Starts nodes and engines in this process, and stops them after the test."""
    with Cluster() as cluster:
        yield cluster

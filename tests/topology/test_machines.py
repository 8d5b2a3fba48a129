"""Which nodes are known to be on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.topology.machines import machines
from tests.trees import from_text

HEAD = "version: 1\nnodes:\n"


@pytest.mark.parametrize(
    ("root", "site", "together"),
    [
        ('listen: "localhost:1"', 'listen: "localhost:2"', True),
        ('listen: "localhost:1"', 'listen: "localhost:2", link: reverse', True),  # it must dial loopback
        ('listen: "10.0.0.1:1"', 'listen: "localhost:2"', True),  # the root must dial loopback
        ('listen: "10.0.0.1:1"', 'listen: "localhost:2", link: reverse', False),
        ('listen: "10.0.0.1:1"', 'listen: "localhost:2", link: auto', False),
        ('listen: "10.0.0.1:1"', 'listen: "10.0.0.1:2"', True),
        ('listen: "10.0.0.1:1"', 'listen: ["10.1.0.1:2", "10.0.0.1:2"]', True),
        ('listen: "10.0.0.1:1"', 'listen: "10.0.0.2:2"', False),
        ('listen: "10.0.0.1:1"', 'listen: "0.0.0.0:2", advertise: "http://gate:2"', False),
        ('listen: "Host:1"', 'listen: "host:2"', True),
        ('listen: "localhost:1", advertise: "http://gate:1"', 'listen: "localhost:2", link: reverse', False),
    ],
)
def test_a_site_beside_its_root_or_elsewhere(tmp_path: Path, root: str, site: str, together: bool) -> None:
    text = f"{HEAD}  root: {{{root}}}\n  site: {{parent: root, {site}}}\nengines:\n"
    text += '  a: {parent: site, kind: simulated}\n  b: {parent: site, kind: vllm, url: "http://10.9.0.1:8000"}\n'
    found = machines(from_text(tmp_path, text).graph)
    assert found == {"root": "root", "site": "root" if together else "site", "a": found["site"], "b": "b"}

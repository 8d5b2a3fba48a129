"""The table of threats in docs/reference/security.md: the tests that it names exist, and none is missing."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOC = TESTS.parent / "docs" / "reference" / "security.md"


def rows() -> list[list[str]]:
    table = DOC.read_text("utf-8").partition("## Threats")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"][2:]


def test_every_threat_names_tests_that_exist() -> None:
    assert len(rows()) > 20
    for threat, stopped_by, tests in rows():
        assert threat
        assert stopped_by
        named = re.findall(r"`([^`]+)`", tests)
        assert named, threat
        file = ""
        for reference in named:
            path, _, test = reference.partition("::")
            file = file if path == "…" else path
            assert (TESTS / file).exists(), reference
            if test:
                start = re.escape(f"def {test.removesuffix('…')}")
                assert re.search(start, (TESTS / file).read_text("utf-8")), reference


def test_every_file_of_the_security_tests_is_in_the_table() -> None:
    named = "".join(tests for _, _, tests in rows())
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert {name for name in here if f"security/{name}" not in named} == set()

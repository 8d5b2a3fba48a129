"""The engine `local`, without the package that it needs; tests/cli/test_engine.py runs it."""

from __future__ import annotations

import sys

import pytest

from hierarchy.engines import local
from hierarchy.errors import UsageError


def test_the_error_without_the_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # makes its import fail
    with pytest.raises(UsageError, match=r"pip install 'hierarchy-llm\[local\]'"):
        local.import_xllamacpp()

"""What the build hook makes of a compiler that works, fails or is missing: with stand-ins for it and for hatchling."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest

from tests.tools.test_bench import tools_on_path

COMPILES = """
import pathlib, sys
for name in ("hierarchy__mypyc.so", "hierarchy/relay/downstream/connection.so"):
    path = pathlib.Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("native")
"""
CANNOT = "import sys; print('first\\nnot compiled: no compiler', file=sys.stderr); sys.exit(3)"
Begin = Callable[..., Any]
T = TypeVar("T")


class Interface(Generic[T]):
    """In place of hatchling's, which is only there while a wheel is built."""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Makes the hook of a project whose compiled.py is the given code, and initializes it."""
    parts = ["hatchling", "builders", "hooks", "plugin", "interface"]
    for number in range(1, len(parts) + 1):
        name = ".".join(parts[:number])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[".".join(parts)], "BuildHookInterface", Interface, raising=False)
    monkeypatch.delitem(sys.modules, "build_hook", raising=False)
    with tools_on_path():
        import build_hook
    monkeypatch.delitem(sys.modules, "build_hook")

    def begin(code: str, wish: str | None = None, version: str = "standard") -> Any:
        (tmp_path / "tools").mkdir(exist_ok=True)
        (tmp_path / "tools" / "compiled.py").write_text(code)
        monkeypatch.delenv("HIERARCHY_COMPILE", raising=False)
        if wish is not None:
            monkeypatch.setenv("HIERARCHY_COMPILE", wish)
        hook = build_hook.CompileHook()
        hook.root, hook.warned = str(tmp_path), []
        hook.app = SimpleNamespace(display_warning=hook.warned.append)
        hook.data = {"pure_python": True, "infer_tag": False, "force_include": {}}
        hook.initialize(version, hook.data)
        return hook

    return begin


def is_pure(hook: Any) -> bool:
    return bool(hook.data == {"pure_python": True, "infer_tag": False, "force_include": {}})


@pytest.mark.parametrize("wish", [None, "auto", "1"])
def test_what_was_compiled_lies_beside_the_sources_until_the_wheel_is_written(begin: Begin, wish: str | None) -> None:
    hook = begin(COMPILES, wish)
    included = {target: Path(source) for source, target in hook.data["force_include"].items()}
    assert set(included) == {"hierarchy__mypyc.so", "hierarchy/relay/downstream/connection.so"}
    assert all(path.read_text() == "native" for path in included.values())
    assert (hook.data["pure_python"], hook.data["infer_tag"], hook.warned) == (False, True, [])
    hook.finalize("standard", hook.data, "a.whl")
    assert not any(path.exists() for path in included.values())


@pytest.mark.parametrize("wish", [None, "auto"])
def test_who_cannot_compile_is_told_so_in_one_line(begin: Begin, wish: str | None) -> None:
    hook = begin(CANNOT, wish)
    assert is_pure(hook)
    assert hook.warned == ["the data path will be interpreted, at a higher price: not compiled: no compiler"]
    hook.finalize("standard", hook.data, "a.whl")


def test_who_insists_is_told_all(begin: Begin) -> None:
    with pytest.raises(RuntimeError, match="first\nnot compiled: no compiler"):
        begin(CANNOT, "1")


@pytest.mark.parametrize(("wish", "version"), [("0", "standard"), ("1", "editable")])
def test_nothing_is_compiled_that_nobody_wants(begin: Begin, wish: str, version: str) -> None:
    hook = begin("raise SystemExit('was run')", wish, version)
    assert is_pure(hook)
    assert not hook.warned
    hook.finalize(version, hook.data, "a.whl")

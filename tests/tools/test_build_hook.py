"""The build hook with a compiler that works or fails; stand-ins replace the compiler and hatchling."""

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
print("compiling 2 modules", flush=True)
for name in ("hierarchy__mypyc.so", "hierarchy/relay/downstream/connection.so"):
    path = pathlib.Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("native")
"""
CANNOT = "import sys; print('first\\nnot compiled: no compiler', file=sys.stderr); sys.exit(3)"
Begin = Callable[..., Any]
T = TypeVar("T")


class Interface(Generic[T]):
    """Replaces hatchling's, which is installed only while a wheel is built."""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """A function that makes the hook of a project whose compiled.py is the given code, and initializes it."""
    parts = ["hatchling", "builders", "hooks", "plugin", "interface"]
    for number in range(1, len(parts) + 1):
        name = ".".join(parts[:number])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[".".join(parts)], "BuildHookInterface", Interface, raising=False)
    monkeypatch.delitem(sys.modules, "build_hook", raising=False)
    with tools_on_path():
        import build_hook
    monkeypatch.delitem(sys.modules, "build_hook")
    monkeypatch.setattr(build_hook, "TERMINAL", str(tmp_path / "terminal"))

    def begin(code: str, setting: str | None = None, version: str = "standard") -> Any:
        (tmp_path / "tools").mkdir(exist_ok=True)
        (tmp_path / "tools" / "compiled.py").write_text(code)
        monkeypatch.delenv("HIERARCHY_COMPILE", raising=False)
        if setting is not None:
            monkeypatch.setenv("HIERARCHY_COMPILE", setting)
        hook = build_hook.CompileHook()
        hook.root, hook.warned = str(tmp_path), []
        hook.app = SimpleNamespace(display_warning=hook.warned.append)
        hook.data = {"pure_python": True, "infer_tag": False, "force_include": {}}
        hook.initialize(version, hook.data)
        return hook

    return begin


def is_pure(hook: Any) -> bool:
    return bool(hook.data == {"pure_python": True, "infer_tag": False, "force_include": {}})


@pytest.mark.parametrize("setting", [None, "auto", "1"])
def test_the_compiled_modules_are_included_until_the_wheel_is_written(begin: Begin, setting: str | None) -> None:
    hook = begin(COMPILES, setting)
    included = {target: Path(source) for source, target in hook.data["force_include"].items()}
    assert set(included) == {"hierarchy__mypyc.so", "hierarchy/relay/downstream/connection.so"}
    assert all(path.read_text() == "native" for path in included.values())
    assert (hook.data["pure_python"], hook.data["infer_tag"], hook.warned) == (False, True, [])
    hook.finalize("standard", hook.data, "a.whl")
    assert not any(path.exists() for path in included.values())


def test_the_terminal_shows_what_pip_keeps_to_itself(
    begin: Begin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(COMPILES)
    assert (tmp_path / "terminal").read_text() == "\n  hierarchy: compiling 2 modules\n"
    assert capfd.readouterr().err == "hierarchy: compiling 2 modules\n"
    begin(CANNOT)
    assert "\n  hierarchy: the data path will be interpreted" in (tmp_path / "terminal").read_text()


@pytest.mark.parametrize("setting", [None, "auto"])
def test_a_machine_that_cannot_compile_gets_a_warning_of_one_line(begin: Begin, setting: str | None) -> None:
    hook = begin(CANNOT, setting)
    assert is_pure(hook)
    assert hook.warned == ["the data path will be interpreted, and requests cost more CPU: not compiled: no compiler"]
    hook.finalize("standard", hook.data, "a.whl")


def test_if_compiling_is_required_the_error_has_the_whole_reason(begin: Begin) -> None:
    with pytest.raises(RuntimeError, match="first\nnot compiled: no compiler"):
        begin(CANNOT, "1")


@pytest.mark.parametrize(("setting", "version"), [("0", "standard"), ("1", "editable")])
def test_nothing_is_compiled_if_disabled_or_for_an_editable_installation(
    begin: Begin, setting: str, version: str
) -> None:
    hook = begin("raise SystemExit('was run')", setting, version)
    assert is_pure(hook)
    assert not hook.warned
    hook.finalize(version, hook.data, "a.whl")

"""The distribution's name: pip would install another project's program under a wrong one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hierarchy
from hierarchy.release import DISTRIBUTION, VERSION, build, install_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
KINDS = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".service", ".conf", ".txt", ".cfg", ""}
NOT_OURS = {"build", "dist", "node_modules"}


def texts() -> Iterator[Path]:
    """All files of the project that people read or run, apart from tests; `.ci` is the only hidden folder of them."""
    for top in (path for path in ROOT.iterdir() if path.name != "tests" and path.name not in NOT_OURS):
        if top.is_dir() and (top.name == ".ci" or not top.name.startswith(".")):
            yield from (path for path in top.rglob("*") if path.is_file() and path.suffix in KINDS)
        elif top.is_file() and top.suffix in KINDS:
            yield top


def installed(line: str) -> list[str]:
    """What the `pip install` commands in a line of text install, without flags and their values."""
    found = []
    for command in re.findall(r"\bpip3? (?:install|wheel) ([^`|#;&<>)]*)", line):
        try:
            words = shlex.split(command)
        except ValueError:  # prose with an apostrophe
            words = command.split()
        found += [word.rstrip(".,:") or "." for word in words if not word.startswith("-")][:1]
    return found


def is_ours(requirement: str) -> bool:
    """Whether pip installs this project for `requirement`: its folder, its wheel or its name, maybe with extras."""
    name = re.escape(DISTRIBUTION)
    wheel = rf"(\S*/)?{re.escape(DISTRIBUTION.replace('-', '_'))}-\S*\.whl"
    return re.fullmatch(rf"\.(\[[\w,]+\])?|{name}(\[[\w,]+\])?|{wheel}", requirement) is not None


def test_the_project_has_the_name_that_the_program_tells() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert str(DISTRIBUTION) != "hierarchy"  # of another project on PyPI
    assert hierarchy.__version__ == VERSION


def test_the_build_finds_the_version() -> None:
    source = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["version"]
    found = re.search(source["pattern"], (ROOT / source["path"]).read_text("utf-8"))
    assert found is not None
    assert found["version"] == VERSION


def test_the_command_and_the_package_keep_their_name() -> None:
    assert set(PROJECT["scripts"]) == {"hierarchy"}
    assert hierarchy.__name__ == "hierarchy"


def test_no_code_looks_up_an_installed_distribution_of_another_project() -> None:
    looked_up = re.compile(r"\b(?:version|metadata|distribution|requires|files)\(\s*[\"']hierarchy[\"']")
    assert [path for path in texts() if path.suffix == ".py" and looked_up.search(path.read_text("utf-8"))] == []


def test_every_hint_and_page_installs_this_distribution() -> None:
    found = {
        (str(path.relative_to(ROOT)), requirement)
        for path in texts()
        if path.name != "release.py"  # makes the hints, see below
        for line in path.read_text("utf-8", "replace").splitlines()
        if "Do not run" not in line and "another project" not in line
        for requirement in installed(line)
    }
    assert {entry for entry in found if not is_ours(entry[1])} == set()
    assert {requirement for _, requirement in found} >= {".", ".[local]"}  # the pattern finds something


def test_no_text_names_the_extras_of_another_project() -> None:
    wrong = re.compile(r"(?<![\w-])hierarchy\[")
    python = re.compile(r"(?<![\w-])hierarchy\[[\"'\d]")  # a subscription in code
    lines = {
        f"{path.relative_to(ROOT)}: {line}"
        for path in texts()
        for line in path.read_text("utf-8", "replace").splitlines()
        if wrong.search(python.sub("", line))
    }
    assert lines == set()


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_the_hint_for_an_extra_names_this_distribution(extra: str) -> None:
    assert install_command(extra) == f"pip install 'hierarchy-llm[{extra}]'"
    assert installed(install_command(extra)) == [f"hierarchy-llm[{extra}]"]
    assert is_ours(f"hierarchy-llm[{extra}]")


@pytest.mark.parametrize("wrong", ["hierarchy", "hierarchy[local]", "hierarchy-0.4.0.whl", "hierarchy-llm-extra"])
def test_another_project_is_recognised(wrong: str) -> None:
    assert installed(f"run: pip install '{wrong}'; then again") == [wrong]
    assert not is_ours(wrong)


def build_of(folder: Path) -> str:
    """The build id that the copy of the package in a folder has."""
    code = "from hierarchy.release import build; print(build())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_two_builds_of_one_version_can_be_told_apart(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("one", "two"):
        shutil.copytree(ROOT / "hierarchy", tmp_path / name / "hierarchy", ignore=ignored)
    assert build_of(tmp_path / "one") == build_of(tmp_path / "two") == f"{build()}\n"
    assert re.fullmatch("[0-9a-f]{12}", build())
    with (tmp_path / "two" / "hierarchy" / "names.py").open("a") as file:
        file.write("# patched\n")
    assert build_of(tmp_path / "one") != build_of(tmp_path / "two")


def test_a_compiled_build_has_the_id_of_its_sources(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hierarchy", tmp_path / "hierarchy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (tmp_path / "hierarchy" / "names.cpython-311-x86_64-linux-gnu.so.bak").write_bytes(b"native")
    (tmp_path / "hierarchy" / "relay" / "added.so").write_bytes(b"native")
    assert build_of(tmp_path) == f"{build()}\n"

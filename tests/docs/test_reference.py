"""The documentation names what exists and nothing else: commands, paths, metrics, errors, log lines, rooms, files."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from typer.testing import CliRunner

from hierarchy.cli.program import app
from hierarchy.errors import RequestError
from hierarchy.http.dialect import PATHS
from hierarchy.relay import retry
from hierarchy.runtime.exposition import FAMILIES
from tests.api.support import Api

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
SOURCES = sorted((ROOT / "hierarchy").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PROGRAMS = ("controller.py", "engines/simulated", "cli/engine.py")  # that are no nodes
FRAMEWORK_CODES = {"not_found", "method_not_allowed"}  # of FastAPI's own errors, see `hierarchy.api`


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = re.split(r"^#+ ", text.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each of typer's commands, with the words that one types for it. Groups are no commands."""
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name, command


def flags(command: Any) -> set[str]:
    """The options of a command that its help shows."""
    options = [param for param in command.params if not getattr(param, "hidden", False)]
    return {flag for option in options for flag in option.opts if flag.startswith("--")}


def _kinds(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)


def test_the_command_line_page_has_every_command_and_every_flag() -> None:
    text = page("reference/command-line.md")
    known = dict(commands(typer.main.get_command(app), "hierarchy"))
    assert [name for name in known if name not in text] == []
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    assert {flag for command in known.values() for flag in flags(command)} - named == {"--exit-with-parent"}
    of_the_program = {"--help", "--version", "--install-completion"}
    assert named - {flag for command in known.values() for flag in flags(command)} <= of_the_program


def test_the_http_pages_have_every_path() -> None:
    text = page("reference/http-api.md") + page("reference/protocol.md")
    api = Api()
    paths = {path.decode() for path in (*PATHS, *api.node.lane.handlers)} | set(api.app.openapi()["paths"])
    paths = {path.replace("{name}", "{id}") for path in paths}
    assert {path for path in paths if not re.search(rf"`(GET |POST )?{re.escape(path)}[`? ]", text)} == set()


def test_the_error_page_has_every_code_with_its_status_and_type() -> None:
    listed = {
        code.strip("`"): (status, kind.strip("`"))
        for status, code, kind, *_ in rows(page("reference/errors.md"), "## Error codes")
    }
    errors = {one.code: (str(one.status), one.type) for one in _kinds(RequestError)}
    assert {code for code in errors if listed.get(code) != errors[code]} == set()
    assert set(listed) - set(errors) == FRAMEWORK_CODES


def test_the_error_page_has_every_code_of_fastchat() -> None:
    listed = {code.strip("`"): cells[-1] for _, code, *cells in rows(page("reference/errors.md"), "## Error codes")}
    for one in _kinds(RequestError):
        assert listed[one.code] in (str(one.fastchat_code), "" if one.fastchat_code == 50001 else None)


def test_the_metrics_page_has_every_metric_with_its_type_and_labels() -> None:
    listed = {
        name.strip("`"): (kind, labels) for name, kind, labels, _ in rows(page("reference/metrics.md"), "# Metrics")
    }
    found = {name: (kind, ", ".join(f"`{label}`" for label in labels)) for name, (kind, _, labels) in FAMILIES.items()}
    assert listed == found


def test_the_log_page_has_every_logger() -> None:
    listed = {
        name for cells in rows(page("reference/logs.md"), "## Loggers") for name in re.findall(r"`(.+?)`", cells[0])
    }
    found = set()
    for source in SOURCES:
        module = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        names = re.findall(r"getLogger\((\"hierarchy[\w.]*\"|__name__)\)", source.read_text("utf-8"))
        found |= {module if name == "__name__" else name.strip('"') for name in names}
    of_programs = {name for name in found if name.startswith(("hierarchy.controller", "hierarchy.engines.simulated"))}
    assert listed == found - of_programs - {"hierarchy.cli.engine"}


def _pattern(line: str) -> str:
    return line.rstrip("*() `")


def test_the_log_page_has_every_line() -> None:
    lines = re.findall(r"^\| [A-Z]+ \| `+(.+?)`+ \|", page("reference/logs.md"), flags=re.MULTILINE)
    listed = {_pattern(re.sub(r"\b[A-Z]{3,}\b", "*", line)) for line in lines}
    found = set()
    for source in SOURCES:
        if any(part in str(source) for part in PROGRAMS):
            continue
        for call in ast.walk(ast.parse(source.read_text("utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log" | "logger" | "warnings") | ast.Attribute(attr="warnings"),
                        attr=method,
                    ),
                    args=args,
                ):
                    args = args[1:] if method == "log" else args  # after its level
                    texts = [arg.value for arg in args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                    found |= {_pattern(re.sub(r"%[\d.]*[a-z]", "*", text)) for text in texts[:1]}
    assert listed == found - {_pattern("*: *")}  # the lines of other processes


@functools.cache
def _texts() -> list[str]:
    """All strings in the sources."""
    nodes = [node for source in SOURCES for node in ast.walk(ast.parse(source.read_text("utf-8")))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize(
    "heading", ["A node does not start", "A node does not register", "Reverse links", "A change has no effect"]
)
def test_the_messages_of_the_troubleshooting_page_exist(heading: str) -> None:
    quoted = [text for cells in rows(page("how-to/troubleshooting.md"), f"## {heading}") for text in _quoted(cells[0])]
    assert quoted
    for part in (part.strip() for text in quoted for part in re.split(r"…|: |\b[A-Z]{4,}\b", text)):
        assert any(part in text for text in _texts()), part


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+ [^`]+)`", cell)


def test_the_architecture_page_has_every_room_in_the_order_of_the_layers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = next(one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    layers = [set(layer.split(" | ")) for layer in contract["layers"]]
    listed: dict[str, set[str]] = {}
    for layer, room, _ in rows(page("explanation/architecture.md"), "## Rooms and layers"):
        listed.setdefault(layer, set()).add(room.strip("`"))
    assert list(listed.values()) == layers


def test_the_life_of_a_request_names_the_classes_of_the_relay() -> None:
    text = page("explanation/life-of-a-request.md")
    for name, file, _ in rows(text, "## The objects"):
        source = (ROOT / "hierarchy" / file.strip("`")).read_text("utf-8")
        assert f"class {name.strip('`')}" in source, name
    (decisions, causes) = ({row[0].strip("`") for row in table} for table in _tables(text, "## Retry"))
    assert decisions == {one.__name__ for one in get_args(retry.Decision)}
    assert causes == {cause.name for cause in retry.Cause}


def _tables(text: str, heading: str) -> list[list[list[str]]]:
    """All tables below a heading."""
    section = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
    return [rows(f"x\n{table}", "x") for table in section.split("\n\n") if table.startswith("|")]


def test_the_environment_variables_are_listed() -> None:
    text = page("reference/command-line.md")
    found = {name for source in SOURCES for name in re.findall(r"\"(HIERARCHY_[A-Z_]+)\"", source.read_text("utf-8"))}
    assert {name for name in found if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    below = re.findall(r"[Pp]aths are relative to `(\w+/)`", text)
    for name in re.findall(r"`((?:hierarchy|tests|tools|docs|configs|\.ci)/[\w./-]+)(?:::\w+)?`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(\w+/[\w./]+\.py)(?:::[\w…]+)?`", text) if below else ():
        assert any((ROOT / start / name).exists() for start in ("", *below)), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(path: Path) -> None:
    for name, test in re.findall(r"`([\w/]*\btest_\w+\.py)(?:::(\w+))?[`…]", path.read_text("utf-8")):
        files = [file for file in TESTS if str(file).endswith(f"/{name}")]
        assert any(f"def {test}" in file.read_text("utf-8") for file in files), f"{name}::{test}"


def test_every_tree_that_a_page_shows_is_one(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    shown = [
        tree for path in PAGES for tree in re.findall(r"^```yaml\n(.*?)^```", path.read_text("utf-8"), re.S | re.M)
    ]
    trees = [tree for tree in shown if re.search(r"^version: 1$", tree, re.M)]
    assert len(trees) >= 4
    for tree in trees:
        file.write_text(tree)
        done = CliRunner().invoke(app, ["check", str(file)])
        assert done.exit_code == 0, done.output

"""A YAML file as plain data with the line of every field, and its problems, those that pydantic finds included.

ruamel's composer yields nodes with line numbers, and its constructor makes plain values of YAML 1.2. The walk from one
to the other is written here, so that a repeated key or a bad value is one problem with a line, and the rest of the file
is still checked.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hierarchy.names import MAX_NAME

MAX_EXPANDED = 100_000  # values of a file whose aliases are written out, or
MAX_FACTOR = 10  # as many for each of its characters, if that is more
HINT_ALIASES = "write out what they stand for, or use `defaults`"
FieldPath = tuple[str | int, ...]  #: keys and indexes from the top of a file down to a field


class Finding(NamedTuple):
    """A problem that is not yet located in a file."""

    field: FieldPath
    message: str  #: what is wrong
    hint: str  #: how to fix it


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file, or in a running tree."""

    #: path of the file, or URL of the node that knows the tree
    file: str
    #: from 1; 0 if the problem is not in any line, such as a file that does not exist
    line: int
    #: its path with dots; "" if the problem is not in any field
    field: str
    #: what is wrong
    message: str
    #: how to fix it
    hint: str

    @property
    def where(self) -> str:
        """`FILE:LINE`, or `FILE`."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def what(self) -> str:
        """`FIELD: MESSAGE; HINT`, or `MESSAGE; HINT`."""
        return f"{self.field}: {self.message}; {self.hint}" if self.field else f"{self.message}; {self.hint}"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Source:
    """The file that a configuration came from."""

    file: str
    #: path of a field -> its line, from 1
    lines: dict[FieldPath, int] = field(default_factory=dict)

    def line(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest one around it that is in the file."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def problem(self, path: FieldPath, message: str, hint: str, line: int | None = None) -> Problem:
        """A problem of one field of the file. line: default: that of the field."""
        dotted = ".".join(map(str, path))
        return Problem(self.file, line or self.line(path), dotted, message, hint)


def closest(word: object, choices: Iterable[str]) -> str:
    """A hint for a mistyped word: the choice that it resembles, else all choices."""
    names = list(choices)
    near = difflib.get_close_matches(str(word), names, 1)
    if near:
        return f'did you mean "{near[0]}"?'
    if len(names) < 2:
        return f"only {names[0]} is known" if names else "none is known"
    return f"choose one of {', '.join(names)}"


def read_yaml(text: str, file: str) -> tuple[Any, Source, list[Problem]]:
    """Parse one YAML document into (plain data, the lines of its fields, problems); no data after a syntax error."""
    source = Source(file)
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings(action="ignore", category=ReusedAnchorWarning):  # YAML allows it
            root = yaml.compose(text)
        if expands_too_far(root, text):
            return None, source, [source.problem((), "its aliases stand for far more values than it has", HINT_ALIASES)]
        walk = _Walk(source, yaml.constructor)
        data = walk.value(root, ()) if root is not None else None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = "check the indentation, and quote values that hold ': ' or start with one of [{*&!%@"
        if error.problem and "'\\t'" in error.problem:
            hint = "indent with spaces, not with tabs"
        return None, source, [source.problem((), f"not YAML: {error.problem or error.context}", hint, line)]
    except YAMLError as error:  # ruamel's ReaderError: a character that YAML does not allow
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        return None, source, [source.problem((), f"not YAML: character {text[position]!r}", "remove it", line)]
    except RecursionError:
        return None, source, [source.problem((), "nested too deeply", "make the file flatter")]
    return data, source, walk.problems


def expands_too_far(root: Node | None, text: str) -> bool:
    """Whether the aliases of a document stand for far more values than it has. Ask before it is made plain data.

    root: composed of `text`; None for an empty document.
    """
    return root is not None and _expanded(root, {}) > max(MAX_EXPANDED, MAX_FACTOR * len(text))


def _expanded(node: Node, known: dict[int, int]) -> int:
    """How many values a node has if each alias is written out. A few lines of aliases of aliases can have billions.

    known: of the nodes that were counted; an alias is the same node as its anchor.
    """
    if id(node) not in known:
        known[id(node)] = 0  # if it contains itself
        inside: list[Node] = []
        if isinstance(node, MappingNode):
            inside = [part for entry in node.value for part in entry]
        elif isinstance(node, SequenceNode):
            inside = node.value
        known[id(node)] = 1 + sum([_expanded(part, known) for part in inside])
    return known[id(node)]


class _Walk:
    """Builds plain data and notes lines and problems. The target of an alias is walked once, at its anchor."""

    def __init__(self, source: Source, constructor: Any) -> None:
        self._source = source
        self._constructor = constructor
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()
        self.problems: list[Problem] = []

    def value(self, node: Node, path: FieldPath) -> Any:
        """The plain value of a YAML node; None if it has none."""
        if id(node) in self._open:
            self._problem(node, path, "contains itself", "remove the alias")
            return None
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._build(node, path)
            self._open.discard(id(node))
        return self._done[id(node)]

    def _build(self, node: Node, path: FieldPath) -> Any:
        if isinstance(node, MappingNode):
            return {key: self.value(value, (*path, key)) for key, value in self._entries(node, path)}
        if isinstance(node, SequenceNode):
            return list(self._items(node, path))
        assert isinstance(node, ScalarNode), "YAML has no fourth kind of node"
        return self._scalar(node, path)

    def _items(self, node: SequenceNode, path: FieldPath) -> Iterator[Any]:
        for index, item in enumerate(node.value):
            self._mark(item, (*path, index))
            yield self.value(item, (*path, index))

    def _entries(self, node: MappingNode, path: FieldPath) -> Iterator[tuple[Any, Node]]:
        for key_node, value in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(key_node, path, "a key that is not a plain word", "write `key: value`")
                continue
            if str(key_node.tag).endswith(":merge"):
                self._problem(
                    key_node, (*path, "<<"), "YAML 1.2 has no merge keys", "use `defaults`, or repeat the fields"
                )
                continue
            key = self._scalar(key_node, path)
            field = (*path, key)
            if field in self._source.lines:
                first = self._source.lines[field]
                self._problem(key_node, field, f"is repeated, first on line {first}", "remove one of them")
                continue
            self._mark(key_node, field)
            yield key, value

    def _scalar(self, node: ScalarNode, path: FieldPath) -> Any:
        try:
            return self._constructor.construct_object(node, deep=True)
        except (ValueError, LookupError, MarkedYAMLError):
            kind = str(node.tag).rpartition(":")[2]
            self._problem(
                node, path, f"{node.value[:40]!r} is not a valid {kind}", "fix it, or quote it to make it text"
            )
            return None

    def _mark(self, node: Node, path: FieldPath) -> None:
        self._source.lines[path] = node.start_mark.line + 1

    def _problem(self, node: Node, path: FieldPath, message: str, hint: str) -> None:
        self.problems.append(self._source.problem(path, message, hint, node.start_mark.line + 1))


MAPPING = "write `key: value` lines, indented below it"


def problem_of(source: Source, error: ErrorDetails, root: type[BaseModel]) -> Problem:
    """One of pydantic's errors as a problem with its line. root: the model of the whole file."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    value, options = shown(error["input"]), _options(root, path)
    default = options.get(str(path[-1])) if path else None
    choices = get_args(default.annotation) if default else ()
    match error["type"]:
        case "missing":
            message, hint = "is required", f"add it: {default.description if default else ''}"
        case "extra_forbidden" | "invalid_key":
            message, hint = "unknown key", closest(path[-1], options)
        case "model_type" | "dict_type":
            message, hint = f"must be a mapping, not {value}", MAPPING
        case "string_type":
            message, hint = f"must be text, not {value}", "put it in quotes"
        case "string_pattern_mismatch" | "string_too_long":
            message = f"{value} is not a valid name"
            hint = f"write letters, digits, '.', '_' and '-', at most {MAX_NAME}, with a letter or digit first"
        case "literal_error":
            message, hint = f"unknown value {value}", closest(error["input"], map(str, choices))
        case "value_error":
            message, hint = error["ctx"]["error"].args
        case _:
            message = f"{_plain(error['msg'])}, not {value}"
            hint = f"the default is {shown(default.default)}" if default else "see docs/reference/configuration.md"
    return source.problem(path, message, hint)


def _options(root: type[BaseModel], path: FieldPath) -> dict[str, FieldInfo]:
    """The fields that are allowed at the place of the last part of `path`."""
    here: Any = root
    for part in path[:-1]:
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[str(part)].annotation
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return {}
    return here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}


def _plain(message: str) -> str:
    """Pydantic's "Input should be a valid integer, unable to ..." as "must be an integer"."""
    message = message.partition(",")[0].replace("Input should", "must").replace("a valid ", "a ")
    return message.replace("a integer", "an integer").replace("a boolean", "true or false")


def shown(value: object) -> str:
    """A value from YAML, short enough for a message."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

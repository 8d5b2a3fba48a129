"""A YAML file as data with the line of every field, and problems told in its terms, pydantic's too.

ruamel's composer gives nodes with marks, and its constructor plain values of YAML 1.2; the walk between is ours, so
that a doubled key or a bad scalar is one problem with a line, and the rest of the file is still checked.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

FieldPath = tuple[str | int, ...]
Finding = tuple[FieldPath, str, str]  #: (field, what is wrong, how to mend it): a problem that has no file yet


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file. `line` counts from 1; 0 where no line is to blame, such as a file that is missing."""

    file: str
    line: int
    field: str
    message: str
    mend: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def what(self) -> str:
        return f"{self.field}: {self.message}; {self.mend}" if self.field else f"{self.message}; {self.mend}"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Source:
    """Where the fields of a configuration stand: `lines` maps a field's path to its line."""

    file: str
    lines: dict[FieldPath, int] = field(default_factory=dict)

    def line(self, path: FieldPath) -> int:
        """The line of a field, or of what holds it where the field itself is not in the file."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def problem(self, path: FieldPath, message: str, mend: str, line: int | None = None) -> Problem:
        dotted = ".".join(map(str, path))
        return Problem(self.file, line or self.line(path), dotted, message, mend)


def closest(word: object, choices: Iterable[str]) -> str:
    """How to mend a mistyped word: the choice that it resembles, else all of them."""
    names = list(choices)
    near = difflib.get_close_matches(str(word), names, 1)
    return f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(names) or 'none'}"


def read_yaml(text: str, file: str) -> tuple[Any, Source, list[Problem]]:
    """Parse one YAML document into (plain data, where its fields stand, problems). A syntax error leaves no data."""
    source = Source(file)
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings(action="ignore", category=ReusedAnchorWarning):  # YAML allows it
            root = yaml.compose(text)
        walk = _Walk(source, yaml.constructor)
        data = walk.value(root, ()) if root is not None else None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mend = "check the indentation, and quote values that hold ': ' or start with one of [{*&!%@"
        return None, source, [source.problem((), f"not YAML: {error.problem or error.context}", mend, line)]
    except YAMLError as error:  # ruamel's ReaderError: a character that YAML does not allow
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        return None, source, [source.problem((), f"not YAML: character {text[position]!r}", "remove it", line)]
    except RecursionError:
        return None, source, [source.problem((), "nested too deeply", "make the file flatter")]
    return data, source, walk.problems


class _Walk:
    """Builds plain data, noting lines and problems. An alias is walked once, where its anchor stands."""

    def __init__(self, source: Source, constructor: Any) -> None:
        self._source = source
        self._constructor = constructor
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()
        self.problems: list[Problem] = []

    def value(self, node: Node, path: FieldPath) -> Any:
        if id(node) in self._open:
            self._problem(node, path, "holds itself", "remove the alias")
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
                self._problem(key_node, path, "a key that is no plain word", "write `key: value`")
                continue
            if str(key_node.tag).endswith(":merge"):
                self._problem(key_node, (*path, "<<"), "YAML 1.2 has no merge keys", "use `defaults`, or write it out")
                continue
            key = self._scalar(key_node, path)
            field = (*path, key)
            if field in self._source.lines:
                first = self._source.lines[field]
                self._problem(key_node, field, f"given twice, first on line {first}", "remove one of them")
                continue
            self._mark(key_node, field)
            yield key, value

    def _scalar(self, node: ScalarNode, path: FieldPath) -> Any:
        try:
            return self._constructor.construct_object(node, deep=True)
        except (ValueError, LookupError, MarkedYAMLError):
            kind = str(node.tag).rpartition(":")[2]
            self._problem(node, path, f"{node.value[:40]!r} is no valid {kind}", "mend it, or quote it to make it text")
            return None

    def _mark(self, node: Node, path: FieldPath) -> None:
        self._source.lines[path] = node.start_mark.line + 1

    def _problem(self, node: Node, path: FieldPath, message: str, mend: str) -> None:
        self.problems.append(self._source.problem(path, message, mend, node.start_mark.line + 1))


MAPPING = "write `key: value` lines, indented below it"


def problem_of(source: Source, error: ErrorDetails, root: type[BaseModel]) -> Problem:
    """One of pydantic's errors in plain words, with its line. root: the model of the whole file."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    value, options = shown(error["input"]), _options(root, path)
    default = options.get(str(path[-1])) if path else None
    choices = get_args(default.annotation) if default else ()
    match error["type"]:
        case "missing":
            message, mend = "is required", f"add it: {default.description if default else ''}"
        case "extra_forbidden" | "invalid_key":
            message, mend = "unknown key", closest(path[-1], options)
        case "model_type" | "dict_type":
            message, mend = f"must be a mapping, not {value}", MAPPING
        case "string_type":
            message, mend = f"must be text, not {value}", "put it in quotes"
        case "string_pattern_mismatch" | "string_too_long":
            message = f"{value} is no name"
            mend = "write letters, digits, '.', '_' and '-', at most 256, with a letter or digit first"
        case "literal_error":
            message, mend = f"unknown value {value}", closest(error["input"], map(str, choices))
        case "value_error":
            message, mend = error["ctx"]["error"].args
        case _:
            message = f"{_plain(error['msg'])}, not {value}"
            mend = f"the default is {shown(default.default)}" if default else "see docs/reference/configuration.md"
    return source.problem(path, message, mend)


def _options(root: type[BaseModel], path: FieldPath) -> dict[str, FieldInfo]:
    """The fields that may stand where the last part of `path` stands."""
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

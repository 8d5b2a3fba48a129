"""The format of the configuration: its fields, its problems, and its documentation."""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hierarchy.config.address import url_of
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import (
    ConfigError,
    EngineSpec,
    ModelLimits,
    NodeSpec,
    Settings,
    SimulatedSpec,
    TreeConfig,
    UnreadableConfigError,
    load,
)
from hierarchy.config.yaml import Problem
from tests.trees import from_text, problems_of

MAPPING = "write `key: value` lines, indented below it"
PAIR = "write [from, to], each a name from `subnets`"
TABS = "indent with spaces, not with tabs"
SYNTAX = "check the indentation, and quote values that hold ': ' or start with one of [{*&!%@"
DOC = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def problems(folder: Path, text: str) -> list[str]:
    """The problems that `load` finds, without the folder: `LINE: FIELD: MESSAGE; HINT`."""
    with pytest.raises(ConfigError) as caught:
        from_text(folder, text)
    return [f"{problem.line}: {problem.what}" for problem in caught.value.problems]


def test_a_whole_file(tmp_path: Path) -> None:
    loaded = from_text(
        tmp_path,
        """\
version: 1
subnets: {dmz: 10.0.0.0/24}
reach: [[dmz, dmz]]
defaults: {dispatch: p2c, grace_s: 5}
nodes:
  root:
  site:
    parent: root
    listen: ["[::1]:0", "10.0.0.1:21001", host]
    dispatch: lottery
engines:
  gpu: {parent: site, kind: simulated, speed: 2, simulated: {slots: 3}}
""",
    )
    tree = loaded.config
    assert tree.nodes["root"] == NodeSpec(), "a node without a value has all the defaults"
    assert tree.nodes["site"].listen == (("::1", 0), ("10.0.0.1", 21001), ("host", 21001))
    assert tree.engines["gpu"].simulated == SimulatedSpec(slots=3)
    assert tree.reach == [("dmz", "dmz")]
    assert loaded.source.line(("nodes", "site", "listen", 1)) == 9
    assert loaded.source.file == str(tmp_path / "tree.yaml")


def test_a_node_has_the_defaults_that_it_does_not_set() -> None:
    defaults = Settings(dispatch="p2c", grace_s=5.0)
    assert NodeSpec().settings(defaults) == defaults
    own = NodeSpec(parent="root", dispatch="shortest_queue", access_log=True).settings(defaults)
    assert own == Settings(dispatch="shortest_queue", grace_s=5.0, access_log=True)
    assert type(own) is Settings


WRITTEN: dict[str, tuple[str, Any]] = {  # another value of each field whose type does not give one
    "total_timeout_s": ("5", 5.0),
    "max_held_bytes": ("2097152", 2097152),
    "max_connections_per_address": ("9", 9),
    "max_speed": ("5", 5.0),
    "models": ("{m: {idle_timeout_s: 3}}", {"m": ModelLimits(idle_timeout_s=3.0)}),
}


@pytest.mark.parametrize("field", sorted(Settings.model_fields.keys() - {"security", "tls"}))
def test_every_setting_can_be_set_at_a_node(tmp_path: Path, field: str) -> None:
    info = Settings.model_fields[field]
    if field in WRITTEN:
        written, other = WRITTEN[field]
        tree = from_text(tmp_path, f"version: 1\nnodes: {{root: {{{field}: {written}}}}}").config
        assert getattr(tree.nodes["root"].settings(tree.defaults), field) == other
        return
    other = next((value for value in get_args(info.annotation) if value != info.default), None)
    if other is None:
        other = (
            not info.default
            if info.annotation is bool
            else info.default / 2
            if isinstance(info.default, float)
            else info.default * 2
        )
    written = str(other).lower()
    tree = from_text(tmp_path, f"version: 1\nnodes: {{root: {{{field}: {written}}}}}").config
    assert getattr(tree.nodes["root"].settings(tree.defaults), field) == other


def test_blocks_of_a_node_override_those_of_defaults_field_by_field(tmp_path: Path) -> None:
    text = """\
version: 1
defaults: {security: {cleartext: true, api_keys: "file:a"}, tls: {ca: /ca.pem}}
nodes: {root: {security: {api_keys: "file:b"}, tls: {cert: /c.pem, key: /k.pem}}}
"""
    tree = from_text(tmp_path, text).config
    settings = tree.nodes["root"].settings(tree.defaults)
    assert settings.security == SecuritySpec(cleartext=True, api_keys="file:b")
    assert settings.tls == TlsSpec(ca="/ca.pem", cert="/c.pem", key="/k.pem")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("security: {key: s3cr3t}", "security.key: is neither env:NAME nor file:PATH; write where"),
        ("security: {api_keys: env:K}", "security.api_keys: is not file:PATH; name a file of keys"),
        ("security: {allow: [10.0.0.1/8]}", "security.allow.0: '10.0.0.1/8' is not a network ("),
        ("tls: {cert: /c.pem}", "tls: `cert` and `key` go together; name both files, or neither"),
        ("tls: {require_client_cert: true}", "tls: `require_client_cert` needs `cert`, `key` and `ca`; name the three"),
    ],
)
def test_blocks_are_checked_and_no_secret_is_shown(tmp_path: Path, block: str, message: str) -> None:
    (problem,) = problems(tmp_path, f"version: 1\nnodes:\n  root: {{{block}}}\n")
    assert problem.startswith(f"3: nodes.root.{message}")
    assert "s3cr3t" not in problem


def test_all_problems_are_found_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
version: 1
defaults: {dispatch: shortest_que}
nodes:
  root: {listen: 21001, listen: "localhost:21001"}
  site a: {parent: root}
  site-b:
    parent: root
    dispach: p2c
engines:
  gpu-1: {kind: vlm}
"""
    assert problems(tmp_path, text) == [
        "2: defaults.dispatch: unknown value 'shortest_que'; did you mean \"shortest_queue\"?",
        "4: nodes.root.listen: is repeated, first on line 4; remove one of them",
        "5: nodes.site a: 'site a' is not a valid name; "
        "write letters, digits, '.', '_' and '-', at most 256, with a letter or digit first",
        '8: nodes.site-b.dispach: unknown key; did you mean "dispatch"?',
        "10: engines.gpu-1.parent: is required; add it: name of the node that routes to it, or a list of them",
        "10: engines.gpu-1.kind: unknown value 'vlm'; did you mean \"vllm\"?",
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("listen", "21001", "has no host; write \"localhost:21001\""),
        ("listen", "[]", "an empty list"),
        ("listen", "[[a, 1]]", "a list is not an address"),
        ("listen", "true", "true is not an address"),
        ("listen", '["::1"]', 'without brackets; write "[::1]:21001"'),
        ("parent", "7", "must be text, not 7; put it in quotes"),
        ("parent", "[]", "[] is not a list of nodes; write a name, or [name, other]"),
        ("parent", "[a, a]", "is not a list of nodes"),
        ("link", "up", "unknown value 'up'; choose one of direct, reverse, auto"),
        ("grace_s", "0", "must be greater than 0, not 0; the default is 30.0"),
        ("grace_s", ".nan", "must be a finite number, not nan"),
        ("grace_s", "1e400", "must be a finite number, not inf"),
        ("grace_s", "'5'", "must be a number, not '5'"),
        ("grace_s", "true", "must be a number, not true"),
        ("max_body_bytes", "1.5", "must be an integer, not 1.5"),
        ("max_head_bytes", "true", "must be an integer, not true"),
        ("max_head_bytes", "1", "must be greater than or equal to 1024, not 1"),
        ("access_log", "maybe", "must be true or false, not 'maybe'; the default is false"),
        ("dispatch", "!!int x", "'x' is not a valid int"),
        ("Parent", "root", 'unknown key; did you mean "parent"?'),
        ("7", "root", "unknown key"),
    ],
)  # fmt: skip
def test_bad_fields_of_a_node(tmp_path: Path, field: str, value: str, message: str) -> None:
    (problem,) = problems(tmp_path, f"version: 1\nnodes:\n  a:\n    {field}: {value}\n")
    assert problem.startswith(f"4: nodes.a.{field}: ")
    assert message in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: is empty; start it with `version: 1` and `nodes:`"),
        ("# nothing\n", "1: is empty; start it with `version: 1` and `nodes:`"),
        ("- 1", "1: contains a list, not a mapping; " + MAPPING),
        ("just words", "1: contains 'just words', not a mapping; " + MAPPING),
        ("nodes: {a: {}}", "1: version: is required; add it: version of this format: 1"),
        ("version: 2\nnodes: {a: {}}", "1: version: unknown value 2; only 1 is known"),
        ("version: 1\nnodes: [a]", "2: nodes: must be a mapping, not a list; " + MAPPING),
        ("version: 1\nnodes: {a: [1]}", "2: nodes.a: must be a mapping, not a list; " + MAPPING),
        ("version: 1\nnodes: {5: {}}", "2: nodes.5: must be text, not 5; put it in quotes"),
        ("version: 1\nnodes: {a: {}}\nreach: [[x]]", "3: reach.0: ['x'] is not a pair of subnets; " + PAIR),
        ("a: [", "1: not YAML: expected the node content, but found '<stream end>'; " + SYNTAX),
        ("a: 1\n\tb: 2", "2: not YAML: found character '\\t' that cannot start any token; " + TABS),
        ("[" * 600, "1: nested too deeply; make the file flatter"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_tree(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"version: 1 # caf\xe9")
    for path, message in [
        (tmp_path / "none.yaml", "no such file; check the path"),
        (tmp_path, "is a directory; name a YAML file in it"),
        (latin, "is not UTF-8 (byte 16); save it as UTF-8"),
        (latin / "below", "cannot be read (Not a directory); check its permissions"),
    ]:
        with pytest.raises(UnreadableConfigError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: {message}"


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\nnodes: {root: {}}")
    assert load(path).config.nodes.keys() == {"root"}


YAML_VALUES: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(
        ["1", "-1", "1.5", ".nan", "x", "true", "null", "''", "2026-01-01", "!!binary aGk=", "localhost:1"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["parent", "kind", "listen", "simulated", "slots", "root", "5", "speed", "dispatch"]), inner
        ).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(TreeConfig.model_fields)), YAML_VALUES))
def test_any_value_anywhere_is_accepted_or_is_a_problem(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, str]
) -> None:
    text = "\n".join(f"{key}: {value}" for key, value in data.items())
    found: list[Problem] = []
    try:
        from_text(tmp_path_factory.getbasetemp(), text)
    except ConfigError as error:
        found = error.problems
        lines = str(error).splitlines()
        assert 0 < len(lines) == len(found)
    assert all(problem.message and problem.hint and problem.line >= 1 for problem in found)


PREFER = "write [site-a, site-b], or [[site-a, site-b], cloud]: of a list in the list no child is preferred"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("prefer: site-a", f"prefer: 'site-a' is not a list of children; {PREFER}"),
        ("prefer: [1]", f"prefer: entry 1 (1) is neither a child's name nor a list of names; {PREFER}"),
        ("prefer: [[]]", f"prefer: entry 1 (a list) is neither a child's name nor a list of names; {PREFER}"),
        ("prefer: ['']", f"prefer: entry 1 ('') is neither a child's name nor a list of names; {PREFER}"),
        ("prefer: [[a, [b]]]", f"prefer: entry 1 (a list) is neither a child's name nor a list of names; {PREFER}"),
        ("prefer: [a, [b, a]]", 'prefer: "a" is in it twice; name each child once'),
        ("spill_after_s: -1", "spill_after_s: must be greater than or equal to 0, not -1; "),
        ("spill_after_s: 1e9", "spill_after_s: must be less than or equal to 3600, not"),
        ("spill_after_s: .nan", "spill_after_s: "),
        ("spill_after_s: .inf", "spill_after_s: "),
        ("spill_after_s: true", "spill_after_s: "),
    ],
)
def test_tiers_that_make_no_sense(tmp_path: Path, fields: str, problem: str) -> None:
    (line,) = problems(tmp_path, f"version: 1\nnodes:\n  root:\n    {fields}\n")
    assert line.startswith(f"4: nodes.root.{problem}")


def test_models_can_be_made_in_code() -> None:
    assert NodeSpec(listen=(("127.0.0.1", 0),)).listen == (("127.0.0.1", 0),)
    assert NodeSpec.model_validate({"listen": [("127.0.0.1", 0)]}).listen == (("127.0.0.1", 0),)
    with pytest.raises(ValidationError):
        EngineSpec(parent="root", kind="vllm", speed=0)


# docs/reference/configuration.md


UNITS = {
    "command": "list",
    "_per_s": "tokens/s",
    "_s": "seconds",
    "_bytes": "bytes",
    "speed": "weight",
    "slots": "count",
    "version": "number",
    "_per_address": "count",
    "prefer": "list",
}
KINDS = {Literal: "word", int: "count", bool: "true/false", tuple: "address", list: "list", dict: "mapping"}
KINDS |= {str: "text", UnionType: "text"}  # the only union is `str | None`


def unit(name: str, annotation: Any) -> str:
    by_name = (meaning for suffix, meaning in UNITS.items() if name.endswith(suffix))
    return next(by_name, KINDS.get(get_origin(annotation) or annotation, "mapping"))


def default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    match value:
        case None:
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case ():
            return "empty"
        case tuple():
            return f"`{url_of(value[0]).removeprefix('http://')}`"
        case BaseModel() | {} | []:
            return "empty"
        case float():
            return f"`{value:g}`"
    return f"`{value}`"


def table(model: type[BaseModel], without: type[BaseModel] | None = None) -> str:
    inherited = without.model_fields if without else {}
    rows = ["| field | unit | default | what, and why |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name not in inherited:
            assert field.description, f"{model.__name__}.{name} has no description"
            rows.append(f"| `{name}` | {unit(name, field.annotation)} | {default(field)} | {field.description} |")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("heading", "model", "without"),
    [
        ("The file", TreeConfig, None),
        ("`nodes`", NodeSpec, Settings),
        ("`engines`", EngineSpec, None),
        ("`simulated`", SimulatedSpec, None),
        ("`defaults`", Settings, None),
        ("`security`", SecuritySpec, None),
        ("`tls`", TlsSpec, None),
        ("`models`", ModelLimits, None),
    ],
)
def test_the_documentation_has_every_field(
    heading: str, model: type[BaseModel], without: type[BaseModel] | None
) -> None:
    sections = {
        part.partition("\n")[0]: part for part in re.split(r"^##+ ", DOC.read_text("utf-8"), flags=re.MULTILINE)
    }
    found = "\n".join(line for line in sections[heading].splitlines() if line.startswith("|"))
    assert found == table(model, without)


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(version.*?)```", DOC.read_text("utf-8"), flags=re.DOTALL)
    assert problems_of(from_text(tmp_path, example)) == []

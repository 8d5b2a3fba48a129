"""The checks of shape, names and addresses, each with its line and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trees import from_text, problems_of

HEAD = "version: 1\nnodes:\n"
GOOD = """\
  root: {listen: "localhost:1"}
  a: {parent: root, listen: "localhost:2"}
engines:
  e: {parent: a, kind: simulated}
"""


def test_a_valid_tree_has_no_problems(tmp_path: Path) -> None:
    assert problems_of(from_text(tmp_path, HEAD + GOOD)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["2: nodes: there is no node; add a root: `root: {}`"]),
        (
            '  x: {parent: y, listen: "localhost:3"}\n  y: {parent: x, listen: "localhost:4"}\n',
            [
                "2: nodes: no root: every node has a parent; remove `parent` from the topmost node",
                "3: nodes.x.parent: a cycle: x -> y -> x; give one of these nodes a parent outside the cycle",
            ],
        ),
        (
            '  z: {parent: z, listen: "localhost:3"}\n' + GOOD,
            ["3: nodes.z.parent: a cycle: z -> z; give one of these nodes a parent outside the cycle"],
        ),
        (
            GOOD + "  f: {parent: roott, kind: simulated}\n",
            ['7: engines.f.parent: unknown parent "roott"; did you mean "root"?'],
        ),
        (
            '  b:\n    listen: "localhost:3"\n    parent: e\n' + GOOD + "  f: {parent: b, kind: simulated}\n",
            ['5: nodes.b.parent: parent "e" is an engine, and only nodes have children; name a node'],
        ),
        (
            GOOD.replace("engines", '  two: {listen: "localhost:3"}\nengines'),
            [
                '5: nodes.two: a second root beside "root"; give it a parent, such as `root`',
                "5: nodes.two: has no engine below it; add an engine with `parent: two`",
            ],
        ),
        (
            GOOD + "  a: {parent: a, kind: simulated}\n",
            ["7: engines.a: a node has the same name; rename one of them"],
        ),
        (
            GOOD + "  f: {parent: a, kind: vllm}\n  g: {parent: a, kind: local}\n",
            [
                '7: engines.f.url: kind vllm needs a URL; add `url: "http://host:port"`',
                "8: engines.g.model: kind local needs a model; add `model: smollm2-135m`, or the path of a GGUF file",
            ],
        ),
        (
            GOOD + "  f:\n    parent: a\n    kind: vllm\n    url: ftp://x\n",
            ["10: engines.f.url: 'ftp://x' is not an http(s) URL; write \"http://host:port\""],
        ),
    ],
)
def test_problems_of_shape_names_and_engines(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems_of(from_text(tmp_path, (HEAD + text) if text else "version: 1\nnodes: {}\n")) == expected


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            '{parent: root, listen: "0.0.0.0:9"}',
            "listen: listens on 0.0.0.0, which is not an address to dial; add `advertise`",
        ),
        ('{parent: root, listen: "[::]:9"}', "listen: listens on ::, which is not an address to dial; add `advertise`"),
        (
            '{parent: root, advertise: "http://0.0.0.0:9"}',
            "advertise: 0.0.0.0 is not an address to dial; write the address",
        ),
        ('{parent: root, advertise: "http://[::]:9"}', "advertise: :: is not an address to dial; write the address"),
        ('{parent: root, advertise: "10.0.0.1:9"}', "advertise: '10.0.0.1:9' is not an http(s) URL"),
        (
            '{parent: root, listen: ["localhost:9", "localhost:9"]}',
            "listen: the same address is listed twice; remove one",
        ),
        ('{parent: root, listen: "localhost:1"}', 'listen: localhost:1 is already the address of node "root"'),
        ('{parent: root, listen: "127.0.0.1:2"}', 'listen: localhost:2 is already the address of node "a"'),
        (
            '{parent: root, listen: ["[::1]:1", "127.0.0.1:1"]}',
            'listen: localhost:1 is already the address of node "root"',
        ),
        (
            '{parent: root, advertise: "http://localhost:2"}',
            'advertise: localhost:2 is already the address of node "a"',
        ),
    ],
)
def test_problems_of_addresses_of_nodes(tmp_path: Path, node: str, message: str) -> None:
    above, below = GOOD.split("engines:")
    text = f"{HEAD}{above}  n: {node}\nengines:{below}  f: {{parent: n, kind: simulated}}\n"
    (problem,) = problems_of(from_text(tmp_path, text))
    assert problem.startswith(f"5: nodes.n.{message}")


@pytest.mark.parametrize(
    ("nodes", "engines", "clash"),
    [
        ({"root": "10.0.0.1:1", "a": "10.0.0.1:1"}, {}, "nodes.a.listen: 10.0.0.1:1 is already the address of node"),
        ({"root": "10.0.0.1:1", "a": "10.0.0.1:2"}, {}, None),
        ({"root": "10.0.0.1:1", "a": "10.0.0.2:1"}, {}, None),
        ({"root": "Host:1", "a": "host:1"}, {}, "nodes.a.listen: host:1 is already the address of node"),
        ({"root": "localhost:1", "a": "127.0.0.2:1"}, {}, None),
        ({"root": "localhost:1", "a": "localhost:0"}, {}, None),
        ({"root": "localhost:1"}, {"e": ("root", "http://localhost:1")}, "engines.e.url: localhost:1 is already"),
        ({"root": "10.0.0.1:1"}, {"e": ("root", "http://10.0.0.1:1/")}, "engines.e.url: 10.0.0.1:1 is already"),
        (
            {"root": "10.0.0.1:1"},
            {"e": ("root", "http://10.0.0.2:8"), "f": ("root", "http://10.0.0.2:8/")},
            "engines.f.url: 10.0.0.2:8 is already the address of engine",
        ),
        (
            {"root": "10.0.0.1:1"},
            {"e": ("root", "http://localhost:8"), "f": ("root", "http://127.0.0.1:8")},
            "engines.f.url: localhost:8 is already the address of engine",
        ),
        # each on its own machine, whose loopback is its own
        (
            {"root": "10.0.0.1:1", "a": "10.0.0.2:1"},
            {"e": ("root", "http://localhost:8"), "f": ("a", "http://localhost:8")},
            None,
        ),
    ],
)  # fmt: skip
def test_two_members_with_one_address(
    tmp_path: Path, nodes: dict[str, str], engines: dict[str, tuple[str, str]], clash: str | None
) -> None:
    lines = [HEAD.rstrip()]
    for name, listen in nodes.items():
        lines.append(f'  {name}: {{listen: "{listen}"{"" if name == "root" else ", parent: root"}}}')
    lines.append("engines:")
    lines += [f"  below-{name}: {{parent: {name}, kind: simulated}}" for name in nodes]
    lines += [f'  {name}: {{parent: {parent}, kind: vllm, url: "{url}"}}' for name, (parent, url) in engines.items()]
    problems = problems_of(from_text(tmp_path, "\n".join(lines)))
    assert len(problems) == (1 if clash else 0), problems
    assert not clash or f": {clash}" in problems[0]


def test_machines_behind_one_translated_address_are_distinguished(tmp_path: Path) -> None:
    text = """\
version: 1
nodes:
  root: {listen: "10.0.0.1:1"}
  a: {parent: root, listen: "0.0.0.0:21001", advertise: "http://gate:9001"}
  b: {parent: root, listen: "localhost:21001", advertise: "http://gate:9002"}
  c: {parent: root, listen: "localhost:21001", advertise: "http://gate:9003"}
  d: {parent: root, listen: "0.0.0.0:21001", advertise: "http://gate:9004"}
engines:
  ea: {parent: a, kind: vllm, url: "http://localhost:8000"}
  eb: {parent: b, kind: vllm, url: "http://localhost:8000"}
  ec: {parent: c, kind: vllm, url: "http://localhost:8000"}
  ed: {parent: d, kind: vllm, url: "http://localhost:8000"}
"""
    assert problems_of(from_text(tmp_path, text)) == []
    problems = problems_of(from_text(tmp_path, text.replace("9003", "9002")))
    assert any("nodes.c." in problem and 'is already the address of node "b"' in problem for problem in problems)


def test_port_0_is_for_nodes_without_child_nodes(tmp_path: Path) -> None:
    assert problems_of(from_text(tmp_path, HEAD + GOOD.replace("localhost:2", "localhost:0"))) == []
    (problem,) = problems_of(from_text(tmp_path, HEAD + GOOD.replace("localhost:1", "localhost:0")))
    assert problem.startswith(
        "3: nodes.root.listen: port 0 means that the system picks a port, which the children cannot know"
    )


DIAL_OUT = """\
version: 1
nodes:
  root: {listen: "10.0.0.10:21001"}
  site-a: {parent: root, link: LINK}
  site-b: {parent: root, link: LINK}
  rack: {parent: site-b, listen: "localhost:21002"}
engines:
  ea: {parent: site-a, kind: vllm, url: "http://localhost:8000"}
  eb: {parent: rack, kind: vllm, url: "http://localhost:8000"}
"""


@pytest.mark.parametrize("link", ["reverse", "auto"])
def test_two_sites_that_dial_out_may_have_the_same_loopback_addresses(tmp_path: Path, link: str) -> None:
    text = DIAL_OUT.replace("LINK", link)
    assert problems_of(from_text(tmp_path, text)) == []
    (problem,) = problems_of(from_text(tmp_path, text.replace("21002", "21001")))  # the rack is beside its site
    assert problem.startswith('6: nodes.rack.listen: localhost:21001 is already the address of node "site-b"')


def test_two_sites_that_the_parent_dials_at_loopback_are_on_its_machine(tmp_path: Path) -> None:
    found = problems_of(from_text(tmp_path, DIAL_OUT.replace("LINK", "direct")))
    assert any('nodes.site-b.listen: localhost:21001 is already the address of node "site-a"' in one for one in found)
    assert any('engines.eb.url: localhost:8000 is already the address of engine "ea"' in one for one in found)


def test_a_node_on_all_interfaces_has_the_loopback_address_of_its_machine_too(tmp_path: Path) -> None:
    text = HEAD + GOOD.replace('"localhost:1"', '"0.0.0.0:2", advertise: "http://localhost:1"')
    (problem,) = problems_of(from_text(tmp_path, text))
    assert problem.startswith('4: nodes.a.listen: localhost:2 is already the address of node "root"')


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ('listen: ["127.0.0.1:9", "localhost:9"]', "listen: localhost:9 is taken already, by 127.0.0.1:9"),
        ('listen: ["[::1]:9", "localhost:9"]', "listen: localhost:9 is taken already, by [::1]:9"),
        ('listen: "localhost:9", admin_listen: "localhost:9"', "admin_listen: localhost:9 is taken already"),
        ('listen: "localhost:9", admin_listen: "0.0.0.0:9"', "admin_listen: 0.0.0.0:9 is taken already, by localhost"),
        ('listen: "localhost:9", admin_listen: "localhost:2"', None),  # of node a
        ('listen: ["127.0.0.1:9", "[::1]:9"], admin_listen: "127.0.0.1:10"', None),
        ('listen: ["127.0.0.1:9", "127.0.0.2:9"]', None),
    ],
)
def test_a_node_does_not_listen_twice_at_one_address(tmp_path: Path, root: str, message: str | None) -> None:
    found = problems_of(from_text(tmp_path, HEAD + GOOD.replace('listen: "localhost:1"', root)))
    if message is None and "localhost:2" in root:
        message = 'listen: localhost:2 is already the address of node "root"'
        assert found[0].startswith(f"4: nodes.a.{message}")
    elif message is None:
        assert found == []
    else:
        (problem,) = found
        assert problem.startswith(f"3: nodes.root.{message}")

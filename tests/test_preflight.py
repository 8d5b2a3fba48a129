"""What keeps a node from starting: `check` reports what `serve` and `up` refuse, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hierarchy.cli import run_node
from hierarchy.cli.node_flags import NodeFlags
from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.engines import local
from hierarchy.preflight import CannotStart, refusals, require_start
from hierarchy.security.credential_store import CREDENTIAL_FILE
from hierarchy.security.secret import JOIN_TOKEN
from tests.certificates import Authority
from tests.cli.program import program, succeeds
from tests.security.keyed import Keys
from tests.support import free_port

NO_SUCH_ADDRESS = "203.0.113.7"  # of RFC 5737: no machine has it
INSECURE = {"security": {"insecure": True}}
WILDCARD = {"listen": "0.0.0.0:21001", "advertise": "http://127.0.0.1:21001"}


class Files:
    """A folder with files that a node can use, and others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = folder / "keys"
        keys.mkdir()
        self.keys = Keys(keys)
        self.good = self.keys.spec()
        self.tls = Authority(folder / "ca").issue("root")
        self.other = Authority(folder / "other").issue("root")
        self.port = free_port()

    def file(self, text: str, mode: int = 0o600, name: str = "file") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def link(self, name: str) -> str:
        """A link that leads nowhere: not even root can write there."""
        path = self.folder / name
        path.parent.mkdir()
        path.symlink_to("nowhere")
        return str(path.parent)


#: why -> (fields of the root `root`, part of the message)
ROOT: dict[str, tuple[Any, str]] = {
    "no file of API keys": (lambda f: {"security": {"api_keys": "file:/no/keys"}}, "/no/keys: cannot be read"),
    "no file of admin keys": (lambda f: {"security": {"admin_keys": "file:/no/keys"}}, "/no/keys: cannot be read"),
    "a folder": (lambda f: {"security": {"api_keys": f"file:{f.folder}"}}, "Is a directory"),
    "another YAML file": (lambda f: {"security": {"api_keys": f"file:{f.file('version: 1')}"}}, "not a file of keys"),
    "keys for all to write": (lambda f: {"security": {"api_keys": f"file:{f.file('', 0o666)}"}}, "others may write"),
    "no tree key": (lambda f: {"security": {"key": "file:/no/tree.key"}}, "/no/tree.key: cannot be read"),
    "no variable": (lambda f: {"security": {"key": "env:NO_SUCH"}}, "variable NO_SUCH is not set"),
    "not a tree key": (lambda f: {"security": {"key": f"file:{f.file('x')}"}}, "not a tree key"),
    "a key for all to read": (lambda f: {"security": {"key": f"file:{f.file('tree:x', 0o644)}"}}, "chmod 600"),
    "the key of another": (lambda f: {"security": {"key": f"file:{f.file('node:x:' + 'A' * 43)}"}}, 'node "x"'),
    "damaged state": (
        lambda f: {"security": {**f.good, "state_dir": str(Path(f.file("{", name="s/root/state.json")).parents[1])}},
        "is damaged",
    ),
    "closed state": (lambda f: {"security": {**f.good, "state_dir": f.link("s/root")}}, "cannot be written"),
    "no certificate": (lambda f: {"tls": {**f.tls, "cert": "/no/cert"}}, "/no/cert: cannot be read"),
    "another private key": (lambda f: {"tls": {**f.tls, "key": f.other["key"]}}, "do not belong together"),
    "no authority": (lambda f: {"tls": {"ca": "/no/ca"}}, "/no/ca: cannot be read"),
    "the keys of no user": (lambda f: {"security": {"api_keys": "file:~no-such-user/k"}}, "no home folder"),
    "the authority of no user": (lambda f: {"tls": {"ca": "~no-such-user/ca"}}, "no home folder"),
    "the state of no user": (lambda f: {"security": {**f.good, "state_dir": "~no-such-user"}}, "no home folder"),
    "keys at no path": (lambda f: {"security": {"api_keys": "file:/a\0b"}}, "is not a path"),
    "a certificate at no path": (lambda f: {"tls": {**f.tls, "cert": "/a\0b"}}, "is not a path"),
    "a state folder at no path": (lambda f: {"security": {**f.good, "state_dir": "/a\0b"}}, "is not a path"),
    "an address of another": (lambda f: {"listen": f"{NO_SUCH_ADDRESS}:21001", **INSECURE}, "has no such address"),
    "an unknown host": (lambda f: {"listen": "a..b:21001", **INSECURE}, "check the host name"),
    "no keys": (lambda f: WILDCARD, "it has no API keys for clients"),
    "no TLS": (lambda f: {**WILDCARD, "security": f.good}, "without TLS"),
    "tokenless workers": (lambda f: {"security": {"tokenless_workers": True}}, "accepts workers by their addresses"),
    "one address twice": (lambda f: {"admin_listen": f"127.0.0.1:{f.port}"}, "is taken already"),
    "all addresses and one": (
        lambda f: {**WILDCARD, **INSECURE, "listen": [f"0.0.0.0:{f.port}", f"localhost:{f.port}"]},
        "is taken already",
    ),
}
#: the same for a node `site` below it
SITE: dict[str, tuple[Any, str]] = {
    "no join token": (lambda f: {"security": {"join_token": "file:/no/token"}}, "/no/token: cannot be read"),
    "a token for all to read": (lambda f: {"security": {"join_token": f"file:{f.file('x', 0o644)}"}}, "chmod 600"),
    "a credential for all to read": (
        lambda f: {"security": {"state_dir": str(Path(f.file("x", 0o644, "s/site/credential")).parents[1])}},
        "chmod 600",
    ),
    "no proxy": (lambda f: {"proxy": "socks5://127.0.0.1:1"}, "write http://host:port"),
}
#: the same for an engine
ENGINE: dict[str, tuple[Any, str]] = {
    "no key of an engine": (lambda f: {"api_key": "file:/no/engine.key"}, "/no/engine.key: cannot be read"),
    "an unknown model": (lambda f: {"kind": "local", "url": None, "model": "smolm2"}, "not a known name"),
    "no model file": (lambda f: {"kind": "local", "url": None, "model": "/no/m.gguf"}, "no such file"),
    "the model of no user": (lambda f: {"kind": "local", "url": None, "model": "~no-such-user/m"}, "no home folder"),
    "a model at no path": (lambda f: {"kind": "local", "url": None, "model": "/a\0b"}, "is not a path"),
    "not a model file": (lambda f: {"kind": "local", "url": None, "model": f.file("GIF8")}, "not a GGUF file"),
}
CASES = [(place, why) for place, cases in (("root", ROOT), ("site", SITE), ("gpu", ENGINE)) for why in cases]


def tree_of(files: Files, place: str, fields: dict[str, Any]) -> Path:
    """The file of a tree on this machine, with these fields at one member."""
    members: dict[str, dict[str, Any]] = {
        "root": {"listen": f"127.0.0.1:{files.port}"},
        "site": {"listen": f"127.0.0.1:{free_port()}", "parent": "root"},
        "gpu": {"parent": "root" if place == "root" else "site", "kind": "vllm", "url": "http://127.0.0.1:9"},
    }
    members[place] |= fields
    nodes = {name: members[name] for name in (["root"] if place == "root" else ["root", "site"])}
    path = files.folder / "tree.yaml"
    with path.open("w") as file:
        YAML().dump({"version": 1, "nodes": nodes, "engines": {"gpu": members["gpu"]}}, file)
    return path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(local, "check_installed", lambda: None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return Files(tmp_path)


@pytest.mark.parametrize(("place", "why"), CASES)
def test_check_refuses_what_serve_and_up_refuse(files: Files, place: str, why: str) -> None:
    make, message = {"root": ROOT, "site": SITE, "gpu": ENGINE}[place][why]
    path = tree_of(files, place, make(files))
    node = "root" if place == "root" else "site"
    checked = program("check", path, "--node", node)
    assert (checked.status, checked.stderr) == (1, ""), checked
    assert message in checked.stdout
    assert all(line.startswith(f"{path}:") for line in checked.stdout.splitlines()), checked
    served = program("serve", path, "--node", node)
    assert (served.status, served.stdout) == (2, "")
    assert message in served.stderr
    assert len(served.stderr.splitlines()) == len(checked.stdout.splitlines())
    if why != "no join token":  # `up` makes one
        run = program("up", path)
        assert run.status == 2
        assert message in run.stderr or "has no such address" in message or "host name" in message, run


def test_a_node_without_anything_wrong_is_not_refused(files: Files) -> None:
    security = {**files.good, "cleartext": True}
    fields = {**WILDCARD, "listen": f"0.0.0.0:{files.port}", "security": security, "tls": files.tls}
    path = tree_of(files, "root", {**fields, "advertise": f"https://127.0.0.1:{files.port}"})
    assert succeeds("check", path) == "OK: 1 node, 1 engine, depth 1"


def test_all_that_is_wrong_is_reported_at_once(files: Files) -> None:
    security = {"api_keys": "file:/no/api", "admin_keys": "file:/no/admin", "key": "env:NO_SUCH"}
    path = tree_of(files, "root", {**WILDCARD, "security": security, "tls": {"ca": "/no/ca"}})
    checked, served = program("check", path), program("serve", path)
    for part in ("/no/api", "/no/admin", "NO_SUCH", "/no/ca", "without TLS"):
        assert part in checked.stdout
        assert part in served.stderr
    assert len(checked.stdout.splitlines()) == 5


def test_check_takes_the_flags_of_serve(files: Files) -> None:
    path = tree_of(files, "root", {**WILDCARD, "listen": f"0.0.0.0:{files.port}"})
    assert program("check", path).status == 1
    assert succeeds("check", path, "--insecure") == "OK: 1 node, 1 engine, depth 1"
    security = {key: files.good[key] for key in ("api_keys", "key")}
    path = tree_of(files, "root", {**WILDCARD, "listen": f"0.0.0.0:{files.port}", "security": security})
    assert "without TLS" in program("check", path).stdout
    assert succeeds("check", path, "--cleartext").startswith("OK")


def test_check_writes_nothing(files: Files) -> None:
    path = tree_of(files, "root", {"security": {**files.good, "state_dir": str(files.folder / "new" / "state")}})
    before = sorted(files.folder.rglob("*"))
    assert succeeds("check", path).startswith("OK")
    assert sorted(files.folder.rglob("*")) == before


def test_a_port_in_use_is_a_note_since_it_may_be_the_node_itself(files: Files) -> None:
    with socket.create_server(("127.0.0.1", files.port)):
        checked = program("check", tree_of(files, "root", {}))
    assert (checked.status, checked.stdout) == (0, "OK: 1 node, 1 engine, depth 1\n")
    (note,) = checked.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{files.port}: port {files.port} is used by another process" in note
    assert "ignore this if that process is the node itself" in note


FAR = """\
version: 1
defaults: {security: {api_keys: "file:/no/keys", cleartext: true}}
nodes:
  root: {listen: "203.0.113.7:21001", security: {key: "file:/no/tree.key"}}
  site: {parent: root, link: reverse}
engines:
  gpu: {parent: site, kind: local, model: "/models/m.gguf"}
"""


def test_files_of_other_machines_are_notes_until_the_node_is_named(files: Files) -> None:
    path = files.folder / "far.yaml"
    path.write_text(FAR)
    checked = program("check", path)
    assert (checked.status, checked.stdout) == (0, "OK: 2 nodes, 1 engine, depth 2\n")
    *notes, last = checked.stderr.splitlines()
    assert [note.split(" ")[2] for note in notes] == [
        "defaults.security.api_keys:", "nodes.root.security.key:", "engines.gpu.model:"
    ]  # fmt: skip
    assert f"hierarchy check {path} --node NAME" in last
    named = program("check", path, "--node", "root")
    assert named.status == 1
    assert [line.split(" ")[1] for line in named.stdout.splitlines()] == [
        "defaults.security.api_keys:", "nodes.root.security.key:", "nodes.root.listen:"
    ]  # fmt: skip


def test_rules_of_every_node_are_checked_on_any_machine(files: Files) -> None:
    path = files.folder / "far.yaml"
    path.write_text(FAR.replace(", cleartext: true", ""))
    lines = program("check", path).stdout.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["nodes.root.listen:", "nodes.site.parent:"]
    assert "without TLS" in lines[0]
    assert "it would connect to its parent http://203.0.113.7:21001 without TLS" in lines[1]


def config(**fields: Any) -> NodeConfig:
    return NodeConfig(**{"name": "n", "advertise": "http://127.0.0.1:1", "listen": (("127.0.0.1", 1),), **fields})


def test_the_environment_of_the_node_counts(files: Files) -> None:
    child = config(parents=("http://127.0.0.1:2",), link="reverse")
    home = {"XDG_STATE_HOME": str(files.folder / "h")}
    assert refusals(child, home) == []
    (token,) = refusals(child, {**home, JOIN_TOKEN: "two\nlines"})
    assert (token.field, token.here) == (("security", "join_token"), True)
    (proxy,) = refusals(child, {**home, "http_proxy": "socks5://127.0.0.1:1"})
    assert (proxy.field, proxy.here) == (("proxy",), True)
    (credential,) = refusals(child, {**home, CREDENTIAL_FILE: files.file("x", 0o644)})
    assert "chmod 600" in credential.hint


def test_a_local_engine_needs_xllamacpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    engine = EngineConfig(name="gpu", kind="local", model="smollm2-135m")
    (refusal,) = refusals(config(engines=(engine,)), {})
    assert refusal.message.startswith("xllamacpp is not installed")
    with pytest.raises(CannotStart, match=r"node n does not start: engines\.gpu\.model: xllamacpp is not installed"):
        require_start(config(engines=(engine,)), {})
    elsewhere = engine.model_copy(update={"url": "http://127.0.0.1:9"})
    assert refusals(config(engines=(elsewhere,)), {}) == []


def test_flags_are_refused_as_files_are() -> None:
    ended = program("serve", "--port", "9", "--admin-listen", "localhost:9")
    assert ended.status == 2
    assert "localhost:9 is taken already, by localhost:9" in ended.stderr


def test_a_started_node_has_its_state_folder(files: Files) -> None:
    security = {**files.good, "state_dir": str(files.folder / "new")}
    access = require_start(config(settings=Settings.model_validate({"security": security})), {})
    assert access.registration_policy.keeps_state
    assert (files.folder / "new" / "n").is_dir()


def test_a_reload_refuses_what_would_not_start_again(files: Files) -> None:
    path = tree_of(files, "gpu", {})
    given = NodeFlags()
    made = run_node._read_again(path, "site", given, {})
    assert made.engines[0].name == "gpu"
    for fields, message in (
        ({"kind": "local", "url": None, "model": "no-such"}, "not a known name"),
        ({"api_key": "env:NO_SUCH"}, "variable NO_SUCH is not set"),
    ):
        tree_of(files, "gpu", fields)
        with pytest.raises(CannotStart, match=message):
            run_node._read_again(path, "site", given, {})

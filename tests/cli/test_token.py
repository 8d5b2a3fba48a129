"""`hierarchy token`, nodes that join with its tokens, and the flags of security."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from hierarchy.security.tokens import Signer, parent_key
from tests.cli.program import fails, succeeds
from tests.security.keyed import bearer
from tests.support import eventually, free_port

HIERARCHY = [sys.executable, "-m", "hierarchy"]


@contextmanager
def serving(*arguments: str, stdin: str = "", **environ: str) -> Iterator[subprocess.Popen[str]]:
    command = [*HIERARCHY, "serve", "--host", "127.0.0.1", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env={**os.environ, **environ}, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.slow
def test_a_site_joins_with_the_documented_commands_and_is_revoked(tmp_path: Path) -> None:
    key, api, admin = (str(tmp_path / name) for name in ("tree.key", "api.yaml", "admin.yaml"))
    succeeds("token", "key", "--out", key)
    client = succeeds("key", "create", "--name", "alice", "--file", api)
    operator = succeeds("key", "create", "--name", "ops", "--file", admin)
    token = succeeds("token", "create", "--node", "site-a", "--ttl", "1h", "--key-file", key)
    port, below = free_port(), free_port()
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    url = f"http://127.0.0.1:{port}"
    root = ("--node", "root", "--port", str(port), "--key-file", key, "--api-keys", api, "--admin-keys", admin)
    site = ("--node", "site-a", "--port", str(below), "--parent", url, "--engine", "simulated=m")

    def models() -> list[str]:
        try:
            response = httpx.get(f"{url}/v1/models", headers=bearer(client))
        except httpx.TransportError:
            return []
        return [row["id"] for row in response.json()["data"]]

    with serving(*root, **state), serving(*site, "--join-token-file", "-", stdin=token + "\n", **state):
        eventually(lambda: models() == ["m"], "the site to join", 30.0)
        assert "admin key" in fails("token", "revoke", "--node", "site-a", "--url", url, status=2)
        wrong = fails("token", "revoke", "--node", "site-a", "--url", url, status=2, HIERARCHY_ADMIN_KEY="hk-wrong")
        assert "401" in wrong
        assert models() == ["m"]
        message = succeeds("token", "revoke", "--node", "site-a", "--url", url, HIERARCHY_ADMIN_KEY=operator)
        assert message == "site-a is revoked"
        assert models() == []


def test_secrets_are_written_with_mode_0600_and_no_tree_key_is_overwritten(tmp_path: Path) -> None:
    key, own, token = (tmp_path / name for name in ("tree.key", "own.key", "token"))
    succeeds("token", "key", "--out", str(key))
    assert "exists already" in fails("token", "key", "--out", str(key), status=2)
    succeeds("token", "key", "--node", "site-a", "--key-file", str(key), "--out", str(own))
    options = ("--node", "rack", "--parent", "site-a", "--models", "m1, m2", "--out", str(token))
    succeeds("token", "create", "--key-file", str(own), *options)
    assert {path.stat().st_mode & 0o777 for path in (key, own, token)} == {0o600}
    grant = Signer("site-a", parent_key(key.read_text().strip(), "site-a")).check(token.read_text().strip())
    assert (grant.node, grant.models) == ("rack", frozenset({"m1", "m2"}))
    assert 'the key of node "site-a"' in fails("token", "create", "--node", "x", "--key-file", str(own), status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--node", "a", "--key-file", "KEY", "--ttl", "soon"), "--ttl soon"),
        (("create", "--node", "a b", "--key-file", "KEY"), "not a node's name"),
        (("create", "--node", "a", "--key-file", "/no/key"), "/no/key"),
        (("create", "--node", "a", "--key-file", "KEY", "--models", ","), "--models"),
        (("key", "--node", "a"), "--key-file"),
        (("revoke", "--node", "a", "--url", "http://127.0.0.1:9"), "cannot reach"),
        (("revoke", "--node", "a/b", "--url", "http://127.0.0.1:9"), "not a node's name"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    key = tmp_path / "tree.key"
    succeeds("token", "key", "--out", str(key))
    given = [str(key) if argument == "KEY" else argument for argument in arguments]
    assert message in fails("token", *given, status=2)


TREE = """\
version: 1
nodes:
  root: {{listen: "0.0.0.0:{port}", advertise: "http://127.0.0.1:{port}"}}
engines:
  e: {{parent: root, kind: simulated, model: m}}
"""


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_node_that_others_can_reach_does_not_start_without_keys(tmp_path: Path, command: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(TREE.format(port=free_port()))
    message = fails(command, str(path), status=2, lines=2)
    assert "0.0.0.0" in message
    assert "without TLS" in message
    assert "hierarchy key create" in message
    assert "--insecure" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--host", "0.0.0.0", "--cleartext", "--engine", "vllm=http://127.0.0.1:1", "--api-keys", "/no/keys"),
            "/no/keys",
        ),
        (("--parent", "http://192.0.2.1:1"), "without TLS"),
        (("--allow", "10.1.0.7/24"), "--allow: '10.1.0.7/24' is not a network"),
        (("--tls-cert", "/c.pem"), "go together"),
        (("--admin-listen", "nowhere:99999"), "--admin-listen"),
        (("--tokenless-workers",), "--allow"),
        (("--key-file", "/no/key"), "/no/key"),
    ],
)
def test_wrong_flags_of_security_are_one_line(flags: tuple[str, ...], message: str) -> None:
    assert message in fails("serve", *flags, status=2)


def test_flags_of_security_are_refused_beside_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(TREE.format(port=free_port()))
    flags = ("--api-keys", "x", "--tls-ca", "y", "--require-client-cert", "--admin-listen", "localhost:1")
    message = fails("serve", str(path), *flags, status=2)
    assert "--api-keys, --admin-listen, --tls-ca, --require-client-cert: not together with CONFIG" in message

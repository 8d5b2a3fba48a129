"""`hierarchy state`: backup and restore of a real node, and confirming a state that was lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from hierarchy.security.token_store import TokenStore
from tests.cli.program import fails, program, succeeds
from tests.cli.test_token import serving
from tests.cluster import Cluster
from tests.security.keyed import Keys, bearer
from tests.support import eventually, free_port
from tests.whole.test_instances import child, have_joined, register, root

TREE = """\
version: 1
defaults: {{security: {{state_dir: "{folder}", key: "file:{folder}/tree.key"}}}}
nodes:
  root: {{listen: "127.0.0.1:0"}}
engines:
  gpu: {{parent: root, kind: vllm, url: "http://127.0.0.1:9"}}
"""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def file(tmp_path: Path, keys: Keys) -> Path:
    path = tmp_path / "tree.yaml"
    path.write_text(TREE.format(folder=tmp_path))
    TokenStore(tmp_path / "root" / "state.json").revoke("site-a")
    return path


def test_a_state_is_backed_up_and_restored_by_configuration_or_by_name(file: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.state"
    assert succeeds("state", "backup", file, "--out", archive) == f"{archive}: state of root: state.json"
    assert "exists already" in fails("state", "backup", file, "--out", archive, status=2)
    shutil.rmtree(tmp_path / "root")
    assert "holds no state" in fails("state", "backup", file, "--out", tmp_path / "x", status=2)
    shown = succeeds("state", "restore", archive, "--node", "root", "--state-dir", tmp_path)
    assert shown.startswith(f"{tmp_path}/root: restored state.json as of 20")
    assert "revoke it again" in shown
    assert TokenStore(tmp_path / "root" / "state.json").is_revoked("site-a", 1.0)
    assert "add --force" in fails("state", "restore", archive, file, status=2)
    assert ".replaced-" in succeeds("state", "restore", archive, file, "--force")
    found = json.loads(succeeds("state", "restore", archive, file, "--force", "--json"))
    assert (found["folder"], found["files"]) == (f"{tmp_path}/root", ["state.json"])
    assert Path(found["replaced"]).is_dir()
    found = json.loads(succeeds("state", "backup", file, "--out", archive, "--force", "--json"))
    assert found == {"file": str(archive), "node": "root", "files": ["state.json"]}


def test_the_node_must_be_named_in_one_way(file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    assert "no node chosen" in fails("state", "backup", *out, status=2)
    assert "not together with CONFIG" in fails("state", "backup", file, "--state-dir", "x", *out, status=2)
    assert "not a node's name" in fails("state", "backup", "--node", "../x", *out, status=2)


def test_the_state_of_a_node_that_runs_is_backed_up_but_not_restored(keys: Keys, tmp_path: Path) -> None:
    port, archive = free_port(), tmp_path / "root.state"
    place = ("--node", "root", "--state-dir", str(tmp_path))
    files = {"--key-file": "tree.key", "--api-keys": "api.yaml", "--admin-keys": "admin.yaml"}
    arguments = [part for flag, name in files.items() for part in (flag, str(tmp_path / name))]
    url = f"http://127.0.0.1:{port}"

    def listens() -> bool:
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    with serving(*place, "--port", str(port), *arguments) as process:
        eventually(listens, "the node to start", 30.0)
        register_one = httpx.post(f"{url}/admin/revoke", json={"node": "site-b"}, headers=bearer(keys.admin))
        assert register_one.status_code == 200
        succeeds("state", "backup", *place, "--out", archive)
        for force in ((), ("--force",)):
            assert "is running with it" in fails("state", "restore", archive, *place, *force, status=2)
        process.kill()
        process.wait(10)
        assert "is not empty" in fails("state", "restore", archive, *place, status=2), "a killed node holds nothing"
        succeeds("state", "restore", archive, *place, "--force")


def test_an_operator_confirms_a_lost_state(cluster: Cluster, keys: Keys) -> None:
    at = root(cluster, keys, "root")
    joined = child(cluster, keys, "site-a", (at,), join_token=keys.token_file("site-a"))
    eventually(lambda: have_joined(joined), "a site to join")
    admin = {"HIERARCHY_ADMIN_KEY": keys.admin}
    assert "nothing to confirm" in succeeds("state", "confirm", "--url", at.url, **admin)
    shown = succeeds("state", "confirm", "--json", HIERARCHY_URL=at.url, **admin)
    assert json.loads(shown) == {"node": "root", "was_incomplete": False}
    port = at.port
    cluster.stop(at)
    shutil.rmtree(keys.folder / "state" / "root")
    at = root(cluster, keys, "root", port=port)
    eventually(lambda: have_joined(joined) and "site-a" in at.node.registry.children, "the site to come back")
    assert register(at, keys.token("site-b"), "site-b").status_code == 503
    assert "admin key" in fails("state", "confirm", "--url", at.url, status=2)
    shown = succeeds("state", "confirm", "--url", at.url, **admin)
    assert shown == "root accepts join tokens and renews credentials again"
    assert register(at, keys.token("site-b"), "site-b").status_code == 200


def test_check_live_shows_what_is_wrong_with_a_running_node(cluster: Cluster, keys: Keys, tmp_path: Path) -> None:
    at = root(cluster, keys, "root")
    joined = child(cluster, keys, "site-a", (at,), join_token=keys.token_file("site-a"))
    eventually(lambda: have_joined(joined), "a site to join")
    port = at.port
    cluster.stop(at)
    shutil.rmtree(keys.folder / "state" / "root")
    at = root(cluster, keys, "root", port=port)
    eventually(lambda: "site-a" in at.node.registry.children, "the site to come back")
    file = tmp_path / "tree.yaml"
    file.write_text(TREE.format(folder=keys.folder).replace(":0", f":{port}"))
    ended = program("check", file, "--live", at.url, HIERARCHY_ADMIN_KEY=keys.admin)
    assert ended.status == 1
    assert "records of used tokens and revocations are lost" in ended.stdout
    assert "hierarchy state confirm" in ended.stdout

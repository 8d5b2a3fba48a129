"""Operators' commands on a tree with keys and TLS: `why`, `check --live` and `doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hierarchy.cli.program import app
from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from hierarchy.errors import UsageError
from hierarchy.security.keys import create_key
from tests.certificates import Authority
from tests.cluster import CALM, Cluster
from tests.support import eventually


class SecuredTree:
    """A root and a site with certificates and an admin key, and their configuration file."""

    def __init__(self, cluster: Cluster, authority: Authority, folder: Path) -> None:
        self.authority = authority
        self.key = create_key(folder / "admins.yaml", "ann", None)
        self.key_file = folder / "key"
        self.key_file.write_text(self.key)
        self.key_file.chmod(0o600)
        engine = cluster.engine(models=("m",))
        self.root = cluster.serve(self._node("root", folder))
        gpu = EngineConfig(name="gpu", kind="vllm", url=engine.url)
        site = cluster.serve(self._node("site", folder, parents=(self.root.url,), engines=(gpu,)))
        eventually(lambda: "m" in self.root.node.registry.model_names(), "the site's model")
        self.config = folder / "tree.yaml"
        self.config.write_text(f"""\
version: 1
defaults:
  security: {{admin_keys: "file:{folder}/admins.yaml"}}
  tls: {{cert: "{authority.folder}/site.crt", key: "{authority.folder}/site.key", ca: "{authority.ca_file}"}}
nodes:
  root: {{listen: "{self.root.url.removeprefix("https://")}"}}
  site: {{parent: root, listen: "{site.url.removeprefix("https://")}"}}
engines:
  gpu: {{parent: site, kind: vllm, url: "{engine.url}"}}
""")

    def _node(self, name: str, folder: Path, **fields: object) -> NodeConfig:
        security = {"admin_keys": f"file:{folder}/admins.yaml"}
        blocks = {"security": security, "tls": self.authority.issue(name)}
        settings = Settings.model_validate(CALM.model_dump(exclude_unset=True) | blocks)
        return NodeConfig.model_validate(
            {
                "name": name,
                "listen": (("127.0.0.1", 0),),
                "advertise": "https://127.0.0.1:0",
                "settings": settings,
                **fields,
            }
        )


@pytest.fixture
def tree(cluster: Cluster, authority: Authority, tmp_path: Path) -> SecuredTree:
    return SecuredTree(cluster, authority, tmp_path)


def run(*args: object, key: str = "") -> Result:
    env = {"COLUMNS": "160", "HIERARCHY_ADMIN_KEY": key or None}
    return CliRunner().invoke(app, list(map(str, args)), env=env, catch_exceptions=False)


def test_with_the_key_and_the_ca_all_is_visible(tree: SecuredTree) -> None:
    ca, url = tree.authority.ca_file, tree.root.url
    why = run("why", "m", "--url", url, "--ca", ca, key=tree.key)
    assert "the next request goes to site/gpu" in why.output
    live = run("check", tree.config, "--live", url, "--admin-key-file", tree.key_file)
    assert (live.exit_code, live.output.strip()) == (0, "OK: 2 nodes, 1 engine, depth 2; the running tree agrees")
    doctor = run("doctor", tree.config, "--node", "site", key=tree.key)
    assert doctor.exit_code == 0, doctor.output
    lines = [" ".join(line.split()) for line in doctor.output.splitlines()]
    assert "✓ node a node, which shows its name only with a key" in lines
    assert any(line.startswith("✓ tls TLSv1.3") for line in lines)
    assert any(line.startswith("✓ upgrade reaches the node") for line in lines)
    assert any(line.endswith("is used by a node, which is running already") for line in lines)


def test_the_error_without_a_key(tree: SecuredTree) -> None:
    with pytest.raises(UsageError, match="answered 401: no admin key was sent"):
        run("why", "m", "--url", tree.root.url, "--ca", tree.authority.ca_file)
    with pytest.raises(UsageError, match="answered 401: no admin key was sent"):
        run("check", tree.config, "--live", tree.root.url)


def test_nodes_of_another_ca_are_refused(tree: SecuredTree) -> None:
    with pytest.raises(UsageError, match=r"cannot reach .*certificate verify failed"):
        run("why", "m", "--url", tree.root.url, key=tree.key)


def test_doctor_reports_missing_certificates(tree: SecuredTree) -> None:
    (tree.authority.folder / "site.key").unlink()
    doctor = run("doctor", tree.config, "--node", "site", key=tree.key)
    assert doctor.exit_code == 1
    assert "site.key: cannot be read" in doctor.output
    assert "the node does not start: check `tls`" in doctor.output

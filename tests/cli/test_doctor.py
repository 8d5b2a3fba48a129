"""`hierarchy doctor` on this machine, with a real parent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from hierarchy.cli.doctor import doctor
from hierarchy.config.models import NodeConfig, Settings
from hierarchy.errors import UsageError
from tests.certificates import Authority
from tests.cluster import CALM, Cluster, wait_for_model
from tests.support import free_port
from tests.trees import CONFIGS


def run(*args: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "140"}, catch_exceptions=False)


def lines(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.output.splitlines() if line.strip()]


def config(folder: Path, root: str, site: str, engine: str) -> str:
    path = folder / "tree.yaml"
    path.write_text(f"""\
version: 1
nodes:
  root: {{listen: "{root.removeprefix("http://")}"}}
  site: {{parent: root, listen: "{site.removeprefix("http://")}"}}
engines:
  gpu: {{parent: site, kind: vllm, url: "{engine}", models: [m]}}
""")
    return str(path)


def test_a_running_node_passes_all_checks(cluster: Cluster, tmp_path: Path) -> None:
    root, engine = cluster.node("root", settings=CALM), cluster.engine(models=("m", "n"))
    site = cluster.node("site", parents=(root.url,), engines=(engine.url,), settings=CALM)
    wait_for_model(root.url, "m")
    path = config(tmp_path, root.url, site.url, engine.url)
    result = run(path, "--node", "site")
    found = lines(result)
    assert result.exit_code == 0, result.output
    assert found[0] == "node site"
    where = site.url.removeprefix("http://")
    assert f"✓ listen {where} is used by site, which is running already" in found
    assert f"parent {root.url}" in found
    assert "✓ upgrade reaches the node, which refuses an unknown child with 404, as it should" in found
    assert f"✓ path back the parent is on this machine, and {site.url} can be dialled from it" in found
    assert "✓ gpu (vllm) m; 0 running or waiting" in found
    assert found[-1] == "✓ link direct, as configured: the parent can dial this node"
    result = run(path, "--node", "root")
    assert (result.exit_code, lines(result)[-1]) == (0, "- link not needed: this node has no parent")
    page = json.loads(run(path, "--node", "site", "--json").stdout)
    assert (page["node"], page["ok"], page["link"]["verdict"]) == ("site", True, "ok")
    checks = {row["check"]: row["verdict"] for rows in page["sections"].values() for row in rows}
    assert checks["upgrade"] == checks["path back"] == "ok"


def test_a_dead_parent_and_a_dead_engine_are_failures(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    result = run(config(tmp_path, *urls), "--node", "site")
    found = lines(result)
    assert result.exit_code == 1
    assert f"✓ listen {urls[1].removeprefix('http://')} is free" in found
    assert any(line.startswith("✗ tcp") for line in found)
    assert any(line.startswith("✗ gpu (vllm)") for line in found)
    assert "is the engine running, and may this machine dial it?" in found
    assert found[-1] == "✗ link none works until this machine can reach the parent"


def test_an_engine_without_a_declared_model_is_a_warning(cluster: Cluster, tmp_path: Path) -> None:
    engine = cluster.engine(models=("n",))
    root, site = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    found = lines(run(config(tmp_path, root, site, engine.url), "--node", "site"))
    assert "! gpu (vllm) lists n, but not m" in found
    assert "correct `models` of this engine" in found


def test_the_node_must_be_named() -> None:
    with pytest.raises(UsageError, match="has 3 nodes; choose one with --node: root, site-a, site-b"):
        run(str(CONFIGS / "demo.yaml"))
    with pytest.raises(UsageError, match='no node "x"'):
        run(str(CONFIGS / "demo.yaml"), "--node", "x")


DIAL_OUT = """\
version: 1
defaults: {{security: {{state_dir: "{folder}", insecure: true}}, tls: {{ca: "{tls[ca]}"}}}}
nodes:
  root: {{listen: "{root}", tls: {{cert: "{tls[cert]}", key: "{tls[key]}"}}}}
  root-b: {{listen: "127.0.0.1:{dead}", replica_of: root}}
  site:
    parent: root
    link: reverse
    listen: "{site}"
    advertise: "https://site.example:21001"
    tls: {{cert: "{own[cert]}", key: "{own[key]}", ca: "{tls[ca]}", require_client_cert: true}}
engines:
  gpu: {{parent: [root, site], kind: vllm, url: "{engine}"}}
"""


def test_a_healthy_site_that_dials_out_passes(cluster: Cluster, tmp_path: Path) -> None:
    """Its certificate is for another name than that of its address here, and one of two roots is away."""
    authority = Authority(tmp_path / "ca")
    tls, own = authority.issue("root"), authority.issue("site", "site.example")
    engine = cluster.engine(models=("m",))
    root = cluster.serve(node("root", CALM, tls))
    site = cluster.serve(node("site", CALM, {**own, "require_client_cert": True}, parents=(root.url,), link="reverse"))
    path = tmp_path / "tree.yaml"
    where = {"root": root.url.removeprefix("https://"), "site": site.url.removeprefix("https://")}
    path.write_text(DIAL_OUT.format(folder=tmp_path, tls=tls, own=own, dead=free_port(), engine=engine.url, **where))
    result = run(str(path), "--node", "site")
    found = lines(result)
    assert result.exit_code == 0, result.output
    assert f"✓ listen {where['site']} is used by site, which is running already" in found
    assert "✓ start serve finds all files and secrets that it needs" in found
    assert "✓ path back not needed: requests come over links from here" in found
    assert any(line.startswith("! tcp 127.0.0.1:") for line in found), "the other root"
    assert not any("curl" in line for line in found)


def node(name: str, settings: Settings, tls: dict[str, Any], **fields: Any) -> NodeConfig:
    made = Settings.model_validate(settings.model_dump(exclude_unset=True) | {"tls": tls})
    return NodeConfig(
        name=name, listen=(("127.0.0.1", 0),), advertise="https://site.example:1", settings=made, **fields
    )


def test_what_serve_would_refuse_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(f"""\
version: 1
nodes:
  root: {{listen: "127.0.0.1:{free_port()}", security: {{api_keys: "file:/no/keys"}}}}
engines:
  gpu: {{parent: root, kind: local, model: no-such}}
""")
    result = run(str(path))
    found = lines(result)
    assert result.exit_code == 1
    assert "✗ start security.api_keys: /no/keys: cannot be read (No such file or directory)" in found
    assert any(line.startswith("✗ start engines.gpu.model: ") for line in found)
    exposed = tmp_path / "exposed.yaml"
    exposed.write_text(f"""\
version: 1
nodes: {{root: {{listen: "0.0.0.0:{free_port()}", advertise: "http://127.0.0.1:1"}}}}
engines: {{gpu: {{parent: root, kind: simulated}}}}
""")
    assert run(str(exposed)).exit_code == 1
    assert run(str(exposed), "--insecure").exit_code == 0

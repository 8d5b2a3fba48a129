"""TLS between client and nodes, with generated certificates."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.config.models import EngineConfig, NodeConfig, Settings
from tests.certificates import Authority
from tests.cluster import Cluster, Running
from tests.support import eventually

QUICK = {"report_interval_s": 0.2, "probe_interval_s": 0.1, "grace_s": 5.0}


def node(cluster: Cluster, name: str, tls: dict[str, Any], **fields: Any) -> Running:
    settings = Settings.model_validate({**QUICK, "tls": tls})
    host = fields.pop("host", "127.0.0.1")
    config = NodeConfig(
        name=name, listen=(("127.0.0.1", 0),), advertise=f"https://{host}:0", settings=settings, **fields
    )
    return cluster.serve(config)


def complete(client: httpx.Client, url: str, **fields: Any) -> httpx.Response:
    return client.post(f"{url}/v1/completions", json={"model": "simulated", "prompt": "x", "max_tokens": 4, **fields})


def serves(client: httpx.Client, url: str) -> bool:
    return bool(client.get(f"{url}/v1/models").json()["data"])


def with_engine(cluster: Cluster, authority: Authority, **tls: Any) -> tuple[Running, Running]:

    engine = cluster.engine()
    root = node(cluster, "root", {**authority.issue("root"), **tls})
    site = node(
        cluster,
        "site",
        {**authority.issue("site"), **tls},
        parents=(root.url,),
        engines=(EngineConfig(name="gpu", kind="simulated", url=engine.url),),
    )
    return root, site


def test_a_tree_over_tls_serves_requests_and_streams(cluster: Cluster, authority: Authority) -> None:
    root, _ = with_engine(cluster, authority)
    with authority.client() as client:
        eventually(lambda: serves(client, root.url), "the tree")
        for _ in range(3):
            response = complete(client, root.url)
            assert response.headers["x-hierarchy-path"] == "site/gpu"
        assert complete(client, root.url, stream=True).text.rstrip().endswith("[DONE]")


def test_a_client_without_a_valid_certificate_is_refused(cluster: Cluster, authority: Authority) -> None:
    root, _ = with_engine(cluster, authority, require_client_cert=True)
    trusted = authority.issue("me", "client.example")
    with authority.client(trusted) as client:
        eventually(lambda: serves(client, root.url), "nodes that verify each other's certificates")
        assert complete(client, root.url).status_code == 200
    stranger = Authority(authority.folder / "other").issue("stranger")
    for identity in (None, stranger):
        with authority.client(identity) as client, pytest.raises(httpx.TransportError):
            client.get(f"{root.url}/health")


def test_versions_before_tls_1_3_are_refused(cluster: Cluster, authority: Authority) -> None:
    root = node(cluster, "root", authority.issue("root"))
    context = ssl.create_default_context(cafile=authority.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=context) as client, pytest.raises(httpx.ConnectError):
        client.get(f"{root.url}/health")
    with pytest.raises(httpx.HTTPError):
        httpx.get(root.url.replace("https", "http") + "/health")


@pytest.mark.parametrize("fault", ["another CA", "another name"])
def test_a_parent_with_a_wrong_certificate_is_not_joined(
    cluster: Cluster, authority: Authority, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Authority(authority.folder / "other") if fault == "another CA" else authority
    hosts = ("root.example",) if fault == "another name" else ()
    root = node(cluster, "root", issuer.issue("root", *hosts))
    with caplog.at_level(logging.WARNING):
        node(cluster, "site", authority.issue("site"), parents=(root.url,))
        eventually(lambda: "cannot register" in caplog.text, "the refusal")
    assert "certificate verify failed" in caplog.text
    assert root.node.registry.children == {}


def test_a_child_with_a_certificate_for_another_name_gets_no_request(cluster: Cluster, authority: Authority) -> None:
    """The certificate has to match the name in the registered URL, although its address is dialled."""

    engine = cluster.engine()
    root = node(cluster, "root", authority.issue("root"))
    gpu = EngineConfig(name="gpu", kind="simulated", url=engine.url)
    wrong = authority.issue("wrong", "site.example")
    site = node(cluster, "site", wrong, parents=(root.url,), engines=(gpu,), host="localhost")
    with authority.client() as client:
        eventually(lambda: serves(client, root.url), "the site to register")
        response = complete(client, root.url)
        assert response.status_code == 502
        assert "certificate verify failed" in response.json()["error"]["message"]
        cluster.stop(site)
        right = authority.issue("right", "localhost")
        node(cluster, "site", right, parents=(root.url,), engines=(gpu,), host="localhost")
        eventually(lambda: complete(client, root.url).status_code == 200, "the site with the right certificate")


def test_a_renewed_certificate_is_used_without_a_restart(
    cluster: Cluster, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("root")
    root = node(cluster, "root", files)
    before = Path(files["cert"]).read_bytes()
    Path(files["cert"]).write_text("damaged")
    eventually(lambda: "stays in use" in caplog.text, "the warning")
    with authority.client() as client:
        assert client.get(f"{root.url}/health").status_code == 200
    other = Authority(authority.folder / "next")
    other.issue("root")
    for kind in ("crt", "key"):
        (authority.folder / f"root.{kind}").write_bytes((other.folder / f"root.{kind}").read_bytes())
    assert Path(files["cert"]).read_bytes() != before

    def renewed() -> bool:
        try:
            with other.client() as client:
                return client.get(f"{root.url}/health").status_code == 200
        except httpx.ConnectError:
            return False

    eventually(renewed, "the new certificate")

"""Each endpoint without a key or token, with a wrong one, and with the right one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.api import build_app
from hierarchy.api.auth_middleware import is_admin_address
from hierarchy.errors import NotPermitted
from hierarchy.node import Node
from hierarchy.registry.admission import Claim
from hierarchy.registry.child import Child
from hierarchy.security.keys import create_key
from tests.api.support import error_of
from tests.builders import model, report, site, worker
from tests.security.keyed import Keys, bearer

CLIENTS = [
    ("GET", "/v1/models"), ("GET", "/v1/models/m"), ("POST", "/list_models"), ("POST", "/list_multimodal_models"),
    ("POST", "/list_language_models"), ("POST", "/get_worker_address"), ("POST", "/refresh_all_workers"),
    ("POST", "/worker_get_status"), ("GET", "/test_connection"),
]  # fmt: skip
OPERATORS = [("GET", "/tree"), ("GET", "/route"), ("GET", "/metrics"), ("POST", "/admin/revoke")]


class SecuredApi:
    """A node with keys, and requests to its app from any address."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.keys = Keys(folder)
        self.node = Node(self.keys.config(**fields))
        self.app = build_app(self.node)

    def request(
        self, method: str, path: str, message: Any = None, peer: str = "127.0.0.1", **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps({"model": "m", "node": "n"} if message is None else message)
        if (handler := self.node.lane.handlers.get(path.encode())) is not None:
            response = handler(content.encode(), named.get("x-hierarchy-auth", "").encode(), peer)
            return httpx.Response(200, content=response)

        return self.request_bytes(method, path, content.encode(), peer, **named)

    def request_bytes(
        self, method: str, path: str, content: bytes, peer: str = "127.0.0.1", **headers: str
    ) -> httpx.Response:
        """A request whose body need not be JSON."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True, client=(peer, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://root:21001") as http:
                return await http.request(method, path, content=content, headers=headers)

        return asyncio.run(send())

    def register(self, message: dict[str, Any], token: str = "", peer: str = "127.0.0.1") -> httpx.Response:
        return self.request("POST", "/register_worker", message, peer, **(bearer(token) if token else {}))


@pytest.fixture
def api(tmp_path: Path) -> SecuredApi:
    return SecuredApi(tmp_path, cleartext=True)


@pytest.mark.parametrize(("method", "path"), CLIENTS)
def test_paths_for_clients_need_an_api_key(api: SecuredApi, method: str, path: str) -> None:
    for headers in ({}, bearer("hk-wrong"), bearer(api.keys.admin), {"authorization": f"Basic {api.keys.client}"}):
        response = api.request(method, path, **headers)
        error_of(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    for headers in (bearer(api.keys.client), {"x_api_key": api.keys.client}):
        assert api.request(method, path, **headers).status_code in (200, 404)


@pytest.mark.parametrize(("method", "path"), OPERATORS)
def test_paths_for_operators_need_an_admin_key(api: SecuredApi, method: str, path: str) -> None:
    for headers in ({}, bearer("hk-wrong"), bearer(api.keys.client), {"x_api_key": api.keys.admin}):
        error_of(api.request(method, path, **headers), 401, "invalid_admin_key")
    # `/route` without a model is an error
    assert api.request(method, path, **bearer(api.keys.admin)).status_code == (400 if path == "/route" else 200)


def test_unknown_paths_are_not_open(api: SecuredApi) -> None:
    error_of(api.request("GET", "/docs"), 401, "invalid_api_key")
    error_of(api.request("GET", "/admin/unheard-of"), 401, "invalid_admin_key")
    error_of(api.request("GET", "//tree"), 401, "invalid_api_key")


def test_health_is_open_and_reveals_no_names(api: SecuredApi) -> None:
    assert api.request("GET", "/health").json() == {"status": "ok"}
    assert api.request("GET", "/ready").json() == {"ready": False}


def test_paths_without_keys_of_their_kind_are_closed(tmp_path: Path) -> None:
    no_admin = SecuredApi(tmp_path, without=("admin_keys",))
    error_of(no_admin.request("GET", "/tree", **bearer(no_admin.keys.client)), 401, "invalid_admin_key")


def test_a_key_lists_only_the_models_it_may_use(api: SecuredApi) -> None:
    api.register(site("site-a"), api.keys.token("site-a"))
    restricted = create_key(api.keys.folder / "api.yaml", "bob", ["other"])
    assert asyncio.run(api.node.access.refresh_client_keys())
    for key, models in ((api.keys.client, ["m"]), (restricted, [])):
        assert [row["id"] for row in api.request("GET", "/v1/models", **bearer(key)).json()["data"]] == models
        assert api.request("POST", "/list_models", **bearer(key)).json() == {"models": models}
        assert api.request("POST", "/worker_get_status", **bearer(key)).json()["model_names"] == models
    error_of(api.request("GET", "/v1/models/m", **bearer(restricted)), 404, "model_not_found")
    error_of(api.request("POST", "/get_worker_address", **bearer(restricted)), 403, "model_not_allowed")


# registering


def test_a_token_is_exchanged_for_a_credential_once(api: SecuredApi) -> None:
    token = api.keys.token("site-a")
    response = api.register(site("site-a", secret="s:1"), token).json()
    assert response["credential"]
    again = api.register(site("site-a", secret="s:1", seq=2), token)
    assert again.status_code == 200, "the same process, which did not get the response"
    same_together = site("site-a", instance="site-a-1:s", secret="1", url="http://127.0.0.1:7")
    assert "used already" in error_of(api.register(same_together, token), 401, "invalid_token")["message"]
    other_process = site("site-a", instance="other", secret="s2", url="http://127.0.0.1:7")
    assert "used already" in error_of(api.register(other_process, token), 401, "invalid_token")["message"]
    later = api.register(site("site-a", instance="after-restart", secret="s3"), response["credential"])
    assert later.status_code == 200
    assert later.json()["credential"] == ""


def test_no_child_registers_without_a_valid_token(api: SecuredApi) -> None:
    other = Keys(_created(api.keys.folder / "other")).token("site-a")
    for token in ("", "hk-nonsense", other, api.keys.client, api.keys.token("site-a", ttl_s=-1)):
        error_of(api.register(site("site-a"), token), 401, "invalid_token")
    error_of(api.register(site("site-a"), api.keys.token("site-a", parent="site-b")), 401, "invalid_token")
    error_of(api.register(worker("http://127.0.0.1:5")), 401, "invalid_token")
    assert len(api.node.registry) == 0


def test_a_token_is_for_one_name_and_its_models(api: SecuredApi) -> None:
    token = api.keys.token("site-a", models=["other"])
    assert "site-b" in error_of(api.register(site("site-b"), token), 403, "not_permitted")["message"]
    assert "may not serve m" in error_of(api.register(site("site-a"), token), 403, "not_permitted")["message"]
    assert api.register(site("site-a"), api.keys.token("site-a", models=["m", "n"])).status_code == 200, (
        "the token is still unused"
    )


def test_a_report_cannot_add_other_models(api: SecuredApi) -> None:
    api.register(site("site-a", secret="s"), api.keys.token("site-a", models=["m"]))
    good = report("site-a", secret="s")
    assert api.request("POST", "/receive_heart_beat", good, x_hierarchy_auth="s").json()["exist"] is True
    with pytest.raises(NotPermitted, match="may not serve x"):
        api.request("POST", "/receive_heart_beat", report("site-a", model("x"), seq=3), x_hierarchy_auth="s")
    assert api.node.registry.model_names() == ["m"]


def test_replicas_share_an_identity_and_another_node_with_the_name_gets_409(api: SecuredApi) -> None:
    credential = api.register(site("site-a"), api.keys.token("site-a")).json()["credential"]
    replica = site("site-a", instance="replica", url="http://127.0.0.1:7")
    assert api.register(replica, credential).status_code == 200
    for instance in ("stranger", "replica"):  # the second is the instance that the tree shows
        stranger = site("site-a", instance=instance, secret="other", url="http://127.0.0.1:7")
        error_of(api.register(stranger, api.keys.token("site-a")), 409, "name_taken")
    child = api.node.registry.children["site-a"]
    assert (child.instance, child.secret) == ("replica", b"")


@pytest.mark.parametrize("auth", ["", "wrong", "s2"])
def test_reports_and_deregistrations_need_the_secret_of_the_registration(api: SecuredApi, auth: str) -> None:
    api.register(site("site-a", secret="s"), api.keys.token("site-a"))
    beat = report("site-a", queue_length=7)
    assert api.request("POST", "/receive_heart_beat", beat, x_hierarchy_auth=auth).json() == {"exist": False}
    deregistration = {"worker_name": "http://site-a:21001", "instance": "site-a-1"}
    assert api.request("POST", "/deregister_worker", deregistration, x_hierarchy_auth=auth).json() == {"exist": False}
    child = api.node.registry.children["site-a"]
    assert child.status.queue_length == 0
    assert api.request("POST", "/receive_heart_beat", beat, x_hierarchy_auth="s").json()["exist"] is True
    assert child.status.queue_length == 7
    assert api.request("POST", "/deregister_worker", deregistration, x_hierarchy_auth="s").json() == {"exist": True}


def test_no_report_is_accepted_for_a_child_without_a_secret(api: SecuredApi) -> None:
    api.register(site("site-a", secret=""), api.keys.token("site-a"))
    assert api.request("POST", "/receive_heart_beat", report("site-a"), x_hierarchy_auth="").json() == {"exist": False}


def test_a_revoked_child_is_removed_at_once_and_needs_a_new_token(api: SecuredApi) -> None:
    credential = api.register(site("site-a"), api.keys.token("site-a")).json()["credential"]
    spare = api.keys.token("site-a")
    response = api.request("POST", "/admin/revoke", {"node": "site-a"}, **bearer(api.keys.admin))
    assert response.json() == {"node": "site-a", "was_here": True}
    assert len(api.node.registry) == 0
    for void in (credential, spare):
        assert "revoked" in error_of(api.register(site("site-a"), void), 401, "invalid_token")["message"]
    again = Node(api.keys.config(cleartext=True))  # also after a restart
    assert again.access.registration_policy.revoked(["site-a"]) == []
    api.node, api.app = again, build_app(again)
    error_of(api.register(site("site-a"), credential), 401, "invalid_token")
    assert api.register(site("site-a"), api.keys.token("site-a")).status_code == 200


@pytest.mark.parametrize("kind", ["token", "credential"])
def test_a_child_revoked_while_its_url_is_tried_is_refused(
    api: SecuredApi, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `link: auto` the child's URL is tried for some seconds; a credential issued after that would be valid."""
    shown = api.keys.token("site-a")
    if kind == "credential":
        shown = api.register(site("site-a"), shown).json()["credential"]

    async def examine(message: Any, peer: str) -> tuple[Claim, list[Child]]:
        await api.node.revoke("site-a")
        return Claim(reverse=True), []

    monkeypatch.setattr(api.node.urls, "examine", examine)
    response = api.register(site("site-a", link="auto"), shown)
    assert "revoked" in error_of(response, 401, "invalid_token")["message"]
    assert len(api.node.registry) == 0


def test_a_large_body_is_not_read_without_a_valid_token(api: SecuredApi) -> None:
    large = site("site-a", version="x" * 70_000)
    for token in ("", "hk-nonsense", api.keys.token("site-a", ttl_s=-1)):
        error_of(api.register(large, token), 413, "body_too_large")
    error_of(api.register(large, api.keys.token("site-a")), 422, "invalid_field")
    deregistration = {"worker_name": "x" * 70_000}
    error_of(api.request("POST", "/deregister_worker", deregistration), 413, "body_too_large")


# addresses of children


@pytest.mark.parametrize(
    "url", ["http://[::1", "x", "http://a:99999", "http://\x1b[0m", "http://u@h", "", "http://a?b"]
)
def test_a_malformed_url_is_refused(api: SecuredApi, url: str) -> None:
    error_of(api.register({**site("site-a"), "worker_name": url}), 422, "invalid_field")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]", "224.0.0.1"])
def test_an_address_that_is_never_dialled_cannot_be_registered(api: SecuredApi, host: str) -> None:
    message = site("site-a", url=f"http://{host}:80")
    error_of(api.register(message, api.keys.token("site-a"), peer="10.1.0.1"), 403, "not_permitted")


def test_a_child_on_another_machine_cannot_register_loopback(api: SecuredApi) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        message = site("site-a", url=f"http://{host}:80")
        error_of(api.register(message, api.keys.token("site-a"), peer="10.1.0.1"), 403, "not_permitted")
    assert api.register(site("site-a", url="http://127.0.0.1:81"), api.keys.token("site-a")).status_code == 200


def test_a_child_without_tls_needs_cleartext(tmp_path: Path) -> None:
    api = SecuredApi(tmp_path)
    message = site("site-a", url="http://10.1.0.1:80")
    assert "not https" in error_of(api.register(message, api.keys.token("site-a")), 403, "not_permitted")["message"]
    assert api.register(site("site-a", url="https://10.1.0.1"), api.keys.token("site-a")).status_code == 200


def test_fastchat_workers_register_by_address_if_configured(tmp_path: Path) -> None:
    api = SecuredApi(tmp_path, allow=["10.1.0.0/24"], tokenless_workers=True, cleartext=True)
    good = worker("http://10.1.0.7:21002")
    assert api.register(good, peer="10.1.0.7").status_code == 200
    assert api.register(worker("http://10.1.0.8:21002"), peer="::ffff:10.1.0.8").status_code == 200
    error_of(api.register(worker("http://10.1.0.9:21002"), peer="10.2.0.7"), 403, "not_permitted")
    error_of(api.register(worker("http://10.2.0.7:21002"), peer="10.1.0.7"), 403, "not_permitted")
    error_of(api.register(site("site-a"), peer="10.1.0.7"), 401, "invalid_token")
    beat = {"worker_name": "http://10.1.0.7:21002", "queue_length": 1}
    assert api.request("POST", "/receive_heart_beat", beat, "10.2.0.7").json() == {"exist": False}
    assert api.request("POST", "/receive_heart_beat", beat, "10.1.0.7").json() == {"exist": True}
    assert api.request("POST", "/list_models", peer="10.1.0.7").status_code == 200, "FastChat's API server, for example"
    assert api.request("POST", "/list_models", peer="10.2.0.7").status_code == 401
    assert api.request("GET", "/tree", peer="10.1.0.7").status_code == 401


def test_forwarding_fields_are_ignored(tmp_path: Path) -> None:
    api = SecuredApi(tmp_path, allow=["10.1.0.0/24"], tokenless_workers=True)
    assert api.request("POST", "/list_models", peer="127.0.0.1", x_forwarded_for="10.1.0.7").status_code == 401


@pytest.mark.parametrize(
    ("server", "admin", "found"),
    [
        (("10.0.0.1", 21001), (), True),
        (("10.0.0.1", 21001), (("127.0.0.1", 21002),), False),
        (("127.0.0.1", 21002), (("127.0.0.1", 21002),), True),
        (("127.0.0.1", 21001), (("127.0.0.1", 21002),), False),
        (("10.0.0.1", 21002), (("127.0.0.1", 21002),), False),
        (("10.0.0.1", 21002), (("0.0.0.0", 21002),), True),
        (None, (("127.0.0.1", 21002),), False),
    ],
)
def test_admin_addresses(server: Any, admin: Any, found: bool) -> None:
    assert is_admin_address(server, admin) is found


def _created(folder: Path) -> Path:
    folder.mkdir()
    return folder

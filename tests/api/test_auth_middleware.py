"""Each endpoint, asked without what it wants, with the wrong thing, and with the right one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from hierarchy.api import build_app
from hierarchy.api.auth_middleware import is_among
from hierarchy.errors import NotPermitted
from hierarchy.node import Node
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


class Door:
    """Requests to the app of one node with keys, from a peer of the test's choice."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.keys = Keys(folder)
        self.node = Node(self.keys.config(**fields))
        self.app = build_app(self.node)

    def ask(
        self, method: str, path: str, message: Any = None, peer: str = "127.0.0.1", **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = json.dumps({"model": "m", "node": "n"} if message is None else message)
        if (handler := self.node.lane.handlers.get(path.encode())) is not None:
            answer = handler(content.encode(), named.get("x-hierarchy-auth", "").encode(), peer)
            return httpx.Response(200, content=answer)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True, client=(peer, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://root:21001") as http:
                return await http.request(method, path, content=content, headers=named)

        return asyncio.run(ask())

    def register(self, message: dict[str, Any], token: str = "", peer: str = "127.0.0.1") -> httpx.Response:
        return self.ask("POST", "/register_worker", message, peer, **(bearer(token) if token else {}))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path, cleartext=True)


@pytest.mark.parametrize(("method", "path"), CLIENTS)
def test_clients_show_a_key(door: Door, method: str, path: str) -> None:
    for headers in ({}, bearer("hk-wrong"), bearer(door.keys.admin), {"authorization": f"Basic {door.keys.client}"}):
        answer = door.ask(method, path, **headers)
        error_of(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for headers in (bearer(door.keys.client), {"x_api_key": door.keys.client}):
        assert door.ask(method, path, **headers).status_code in (200, 404)


@pytest.mark.parametrize(("method", "path"), OPERATORS)
def test_operators_show_an_admin_key(door: Door, method: str, path: str) -> None:
    for headers in ({}, bearer("hk-wrong"), bearer(door.keys.client), {"x_api_key": door.keys.admin}):
        error_of(door.ask(method, path, **headers), 401, "invalid_admin_key")
    # without a model `/route` has nothing to say
    assert door.ask(method, path, **bearer(door.keys.admin)).status_code == (400 if path == "/route" else 200)


def test_a_path_that_nobody_thought_of_is_not_open(door: Door) -> None:
    error_of(door.ask("GET", "/docs"), 401, "invalid_api_key")
    error_of(door.ask("GET", "/admin/unheard-of"), 401, "invalid_admin_key")
    error_of(door.ask("GET", "//tree"), 401, "invalid_api_key")


def test_health_is_open_and_tells_no_more_than_it_must(door: Door) -> None:
    assert door.ask("GET", "/health").json() == {"status": "ok"}
    assert door.ask("GET", "/ready").json() == {"ready": False}


def test_without_keys_of_its_own_kind_a_door_stays_shut(tmp_path: Path) -> None:
    no_admin = Door(tmp_path, without=("admin_keys",))
    error_of(no_admin.ask("GET", "/tree", **bearer(no_admin.keys.client)), 401, "invalid_admin_key")


def test_a_key_lists_what_it_may_use(door: Door) -> None:
    door.register(site("site-a"), door.keys.token("site-a"))
    bound = create_key(door.keys.folder / "api.yaml", "bob", ["other"])
    assert door.node.access.refresh()
    for key, models in ((door.keys.client, ["m"]), (bound, [])):
        assert [row["id"] for row in door.ask("GET", "/v1/models", **bearer(key)).json()["data"]] == models
        assert door.ask("POST", "/list_models", **bearer(key)).json() == {"models": models}
        assert door.ask("POST", "/worker_get_status", **bearer(key)).json()["model_names"] == models
    error_of(door.ask("GET", "/v1/models/m", **bearer(bound)), 404, "model_not_found")
    error_of(door.ask("POST", "/get_worker_address", **bearer(bound)), 403, "model_not_allowed")


# joining


def test_a_token_is_exchanged_for_a_credential_once(door: Door) -> None:
    token = door.keys.token("site-a")
    answer = door.register(site("site-a", secret="s1"), token).json()
    assert answer["credential"]
    again = door.register(site("site-a", secret="s1", seq=2), token)
    assert again.status_code == 200, "the same process, which did not hear our answer"
    thief = site("site-a", instance="thief", secret="s2", url="http://127.0.0.1:7")
    assert "used already" in error_of(door.register(thief, token), 401, "invalid_token")["message"]
    later = door.register(site("site-a", instance="after-restart", secret="s3"), answer["credential"])
    assert later.status_code == 200
    assert later.json()["credential"] == ""


def test_without_a_token_nobody_joins(door: Door) -> None:
    other = Keys(_made(door.keys.folder / "other")).token("site-a")
    for token in ("", "hk-nonsense", other, door.keys.client, door.keys.token("site-a", ttl_s=-1)):
        error_of(door.register(site("site-a"), token), 401, "invalid_token")
    error_of(door.register(site("site-a"), door.keys.token("site-a", parent="site-b")), 401, "invalid_token")
    error_of(door.register(worker("http://127.0.0.1:5")), 401, "invalid_token")
    assert len(door.node.registry) == 0


def test_name_and_models_are_bound(door: Door) -> None:
    token = door.keys.token("site-a", models=["other"])
    assert "site-b" in error_of(door.register(site("site-b"), token), 403, "not_permitted")["message"]
    assert "may not serve m" in error_of(door.register(site("site-a"), token), 403, "not_permitted")["message"]
    assert door.register(site("site-a"), door.keys.token("site-a", models=["m", "n"])).status_code == 200, "not used up"


def test_a_report_cannot_bring_in_other_models(door: Door) -> None:
    door.register(site("site-a", secret="s"), door.keys.token("site-a", models=["m"]))
    good = report("site-a", secret="s")
    assert door.ask("POST", "/receive_heart_beat", good, x_hierarchy_auth="s").json() == {"exist": True}
    with pytest.raises(NotPermitted, match="may not serve x"):
        door.ask("POST", "/receive_heart_beat", report("site-a", model("x"), seq=3), x_hierarchy_auth="s")
    assert door.node.registry.model_names() == ["m"]


def test_replicas_share_an_identity_and_a_stranger_under_the_name_gets_409(door: Door) -> None:
    credential = door.register(site("site-a"), door.keys.token("site-a")).json()["credential"]
    replica = site("site-a", instance="replica", url="http://127.0.0.1:7")
    assert door.register(replica, credential).status_code == 200
    for instance in ("stranger", "replica"):  # the second is what it read in the tree
        stranger = site("site-a", instance=instance, secret="other", url="http://127.0.0.1:7")
        error_of(door.register(stranger, door.keys.token("site-a")), 409, "name_taken")
    child = door.node.registry.children["site-a"]
    assert (child.instance, child.secret) == ("replica", b"")


@pytest.mark.parametrize("auth", ["", "wrong", "s2"])
def test_reports_and_farewells_show_the_secret_of_the_registration(door: Door, auth: str) -> None:
    door.register(site("site-a", secret="s"), door.keys.token("site-a"))
    beat = report("site-a", queue_length=7)
    assert door.ask("POST", "/receive_heart_beat", beat, x_hierarchy_auth=auth).json() == {"exist": False}
    leave = {"worker_name": "http://site-a:21001", "instance": "site-a-1"}
    assert door.ask("POST", "/deregister_worker", leave, x_hierarchy_auth=auth).json() == {"exist": False}
    child = door.node.registry.children["site-a"]
    assert child.status.queue_length == 0
    assert door.ask("POST", "/receive_heart_beat", beat, x_hierarchy_auth="s").json() == {"exist": True}
    assert child.status.queue_length == 7
    assert door.ask("POST", "/deregister_worker", leave, x_hierarchy_auth="s").json() == {"exist": True}


def test_a_child_without_a_secret_cannot_be_spoken_for(door: Door) -> None:
    door.register(site("site-a", secret=""), door.keys.token("site-a"))
    assert door.ask("POST", "/receive_heart_beat", report("site-a"), x_hierarchy_auth="").json() == {"exist": False}


def test_revoked_is_out_at_once_and_comes_in_with_a_new_token_only(door: Door) -> None:
    credential = door.register(site("site-a"), door.keys.token("site-a")).json()["credential"]
    spare = door.keys.token("site-a")
    answer = door.ask("POST", "/admin/revoke", {"node": "site-a"}, **bearer(door.keys.admin))
    assert answer.json() == {"node": "site-a", "was_here": True}
    assert len(door.node.registry) == 0
    for void in (credential, spare):
        assert "revoked" in error_of(door.register(site("site-a"), void), 401, "invalid_token")["message"]
    again = Node(door.keys.config(cleartext=True))  # also after a restart
    assert again.access.registration_policy.revoked(["site-a"]) == []
    door.node, door.app = again, build_app(again)
    error_of(door.register(site("site-a"), credential), 401, "invalid_token")
    assert door.register(site("site-a"), door.keys.token("site-a")).status_code == 200


@pytest.mark.parametrize("kind", ["token", "credential"])
def test_revoked_while_its_url_is_tried_is_out(door: Door, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link: auto` takes some seconds at a URL of the child's choice, and a credential made after it would be good."""
    shown = door.keys.token("site-a")
    if kind == "credential":
        shown = door.register(site("site-a"), shown).json()["credential"]

    async def wants_reverse(message: Any, peer: str) -> bool:
        door.node.revoke("site-a")
        return True

    monkeypatch.setattr(door.node, "wants_reverse", wants_reverse)
    answer = door.register(site("site-a", link="auto"), shown)
    assert "revoked" in error_of(answer, 401, "invalid_token")["message"]
    assert len(door.node.registry) == 0


def test_a_strangers_body_is_not_held(door: Door) -> None:
    large = site("site-a", version="x" * 70_000)
    for token in ("", "hk-nonsense", door.keys.token("site-a", ttl_s=-1)):
        error_of(door.register(large, token), 413, "body_too_large")
    error_of(door.register(large, door.keys.token("site-a")), 422, "invalid_field")
    leave = {"worker_name": "x" * 70_000}
    error_of(door.ask("POST", "/deregister_worker", leave), 413, "body_too_large")


# where children stand


@pytest.mark.parametrize(
    "url", ["http://[::1", "x", "http://a:99999", "http://\x1b[0m", "http://u@h", "", "http://a?b"]
)
def test_a_url_that_is_none_is_refused_as_ever(door: Door, url: str) -> None:
    error_of(door.register({**site("site-a"), "worker_name": url}), 422, "invalid_field")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]", "224.0.0.1"])
def test_nobody_registers_an_address_that_is_never_dialled(door: Door, host: str) -> None:
    message = site("site-a", url=f"http://{host}:80")
    error_of(door.register(message, door.keys.token("site-a"), peer="10.1.0.1"), 403, "not_permitted")


def test_another_machine_may_not_name_loopback(door: Door) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        message = site("site-a", url=f"http://{host}:80")
        error_of(door.register(message, door.keys.token("site-a"), peer="10.1.0.1"), 403, "not_permitted")
    assert door.register(site("site-a", url="http://127.0.0.1:81"), door.keys.token("site-a")).status_code == 200


def test_a_child_in_the_clear_needs_leave(tmp_path: Path) -> None:
    door = Door(tmp_path)
    message = site("site-a", url="http://10.1.0.1:80")
    assert "not https" in error_of(door.register(message, door.keys.token("site-a")), 403, "not_permitted")["message"]
    assert door.register(site("site-a", url="https://10.1.0.1"), door.keys.token("site-a")).status_code == 200


def test_original_workers_come_in_by_address_if_the_configuration_says_so(tmp_path: Path) -> None:
    door = Door(tmp_path, allow=["10.1.0.0/24"], tokenless_workers=True, cleartext=True)
    good = worker("http://10.1.0.7:21002")
    assert door.register(good, peer="10.1.0.7").status_code == 200
    assert door.register(worker("http://10.1.0.8:21002"), peer="::ffff:10.1.0.8").status_code == 200
    error_of(door.register(worker("http://10.1.0.9:21002"), peer="10.2.0.7"), 403, "not_permitted")
    error_of(door.register(worker("http://10.2.0.7:21002"), peer="10.1.0.7"), 403, "not_permitted")
    error_of(door.register(site("site-a"), peer="10.1.0.7"), 401, "invalid_token")
    beat = {"worker_name": "http://10.1.0.7:21002", "queue_length": 1}
    assert door.ask("POST", "/receive_heart_beat", beat, "10.2.0.7").json() == {"exist": False}
    assert door.ask("POST", "/receive_heart_beat", beat, "10.1.0.7").json() == {"exist": True}
    assert door.ask("POST", "/list_models", peer="10.1.0.7").status_code == 200, "an original API server, say"
    assert door.ask("POST", "/list_models", peer="10.2.0.7").status_code == 401
    assert door.ask("GET", "/tree", peer="10.1.0.7").status_code == 401


def test_nobodys_forwarding_fields_are_believed(tmp_path: Path) -> None:
    door = Door(tmp_path, allow=["10.1.0.0/24"], tokenless_workers=True)
    assert door.ask("POST", "/list_models", peer="127.0.0.1", x_forwarded_for="10.1.0.7").status_code == 401


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
def test_where_operators_are_served(server: Any, admin: Any, found: bool) -> None:
    assert is_among(server, admin) is found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder

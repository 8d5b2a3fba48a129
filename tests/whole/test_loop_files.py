"""The event loop of a running node touches no file: whatever a disk does, it can be neither late nor stuck by it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx
import pytest

from tests.builders import site
from tests.cluster import Cluster
from tests.security.keyed import Keys, bearer
from tests.support import eventually

OWN = str(Path(__file__).parents[2] / "hierarchy")
FILES = ("open", "os.", "shutil.", "tempfile.", "glob.", "pathlib.")
Touched = list[str]
_watched: dict[int, Touched] = {}  # the ids of threads -> what they touched; a hook can never be removed


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    touched = _watched.get(threading.get_ident()) if _watched else None
    if touched is None or not event.startswith(FILES):
        return
    frame: FrameType | None = sys._getframe(1)
    trace = []
    while frame is not None:
        trace.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back
    if any(place.startswith(OWN) for place in trace[:12]):
        touched.append(f"{event} {arguments[:2]!r} at {' < '.join(trace[:6])}")


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_hook)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_after_its_start_the_loop_touches_no_file(cluster: Cluster, keys: Keys) -> None:
    root = cluster.node("root", engines=(cluster.engine(models=("m",)).url,), settings=keys.settings())
    admin, client = bearer(keys.admin), bearer(keys.client)
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}

    def send(method: str, path: str, headers: dict[str, str], body: object = None) -> int:
        return httpx.request(method, f"{root.url}{path}", json=body, headers=headers, timeout=10.0).status_code

    eventually(lambda: send("POST", "/v1/chat/completions", client, chat) == 200, "the engine")

    async def thread() -> int:
        return threading.get_ident()

    loop = cluster.call(thread())
    touched = _watched[loop] = []
    try:
        joined = site("site-a", instance="a", secret="s", url="http://127.0.0.1:9")
        assert send("POST", "/register_worker", bearer(keys.token("site-a")), joined) == 200
        for path in ("/tree", "/metrics", "/v1/models", "/routes?model=m"):
            send("GET", path, {**client, **admin} if path == "/v1/models" else admin)
        assert send("POST", "/v1/chat/completions", client, chat) == 200
        name = next(iter(root.node.registry.children))
        assert send("POST", "/admin/drain", admin, {"path": name, "force": True}) == 200
        assert send("POST", "/admin/undrain", admin, {"path": name}) == 200
        assert send("POST", "/admin/revoke", admin, {"node": "site-a"}) == 200
        key_file = keys.folder / "api.yaml"
        key_file.write_text(key_file.read_text() + "\n")  # the node reads it again
        saved = keys.folder / "state" / "root" / "models.json"
        eventually(saved.exists, "what is known to be saved")
    finally:
        del _watched[loop]
    assert touched == []

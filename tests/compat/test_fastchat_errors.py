"""FastChat's own stream client shows what a worker refuses, before and after the early head of its stream.

It reads no status (fastchat/serve/test_message.py): each frame's `text` is all that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hierarchy.http import promise
from tests.compat.programs import Programs, needs_fastchat
from tests.relay.raw import MODEL, http_response
from tests.relay.support import HOLD, Script, Tree, World, tree

pytestmark = needs_fastchat
JSON = b"content-type: application/json"
REFUSALS: dict[str, Script] = {
    "a status and no frame": [http_response(b'{"detail":"prompt is too long"}', JSON, status=b"422 No")],
    "a frame": [http_response(b'{"text":"prompt is too long","error_code":40302}\0')],
}


@pytest.fixture(scope="module")
def fastchat() -> Iterator[Tree]:
    world = World()
    with tree(world, kind="fastchat") as running:
        yield running
    world.close()


@pytest.mark.parametrize("early", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("form", REFUSALS)
def test_its_text_is_shown(fastchat: Tree, programs: Programs, form: str, early: bool) -> None:
    fastchat.engine.plan([HOLD, *REFUSALS[form]])
    url = f"http://127.0.0.1:{fastchat.port}"
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(programs.test_message, "", MODEL, "a", worker=url)
        try:
            fastchat.world.eventually(lambda: fastchat.engine.received or output.done(), "the request")
            if early:
                fastchat.forward(promise.COMMENT_EVERY_S + 0.1)
                assert [exchange.response.waiting for exchange in fastchat.exchanges()] == [True]
        finally:
            fastchat.engine.release()
    assert "prompt is too long" in output.result()
    assert fastchat.world.problems == []

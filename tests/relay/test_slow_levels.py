"""A slow request stops at the entry node: the levels below see none of it."""

from __future__ import annotations

from tests.relay.raw import BODY, post, post_head
from tests.relay.support import World, tree

SLOW = (
    (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx: ", b"y"),
    (post_head(b"content-length: %d" % len(BODY)) + BODY[:3], BODY[3:4]),
)


def test_a_slow_head_and_a_slow_body_get_408_from_the_entry_node_and_reach_no_other(world: World) -> None:
    """By the real clock: put forward, the root's would take the reports of the nodes below for stale."""
    with tree(world, levels=3, receive_timeout_s=0.2) as chain:
        for first, more in SLOW:
            with chain.client() as client:
                client.send(first)
                client.send(more)
                response = client.read_response()
                assert (response.status, response.get(b"connection")) == (408, [b"close"])
                assert response.error["code"] == "receive_timeout"
                assert client.is_closed()
        assert chain.engine.received == []
        assert [child.sent for node in chain.nodes for child in node.registry] == [0, 0, 0]  # never leased
        assert chain.request(post()).status == 200
        assert [received.body for received in chain.engine.received] == [BODY]
        assert [child.sent for node in chain.nodes for child in node.registry] == [1, 1, 1]

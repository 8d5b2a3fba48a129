"""What a parent must remember: passed on between its instances, and confirmed by an operator if it was lost."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from hierarchy.api.body import json_response, read_message
from hierarchy.errors import NotPermitted
from hierarchy.node import Node
from hierarchy.security.record_keeper import RecordKeeper
from hierarchy.security.registration_policy import UNAUTHENTICATED_BODY_BYTES
from hierarchy.uplink.record_exchange import RecordPage


def router(node: Node) -> APIRouter:
    """Routes for other instances of this node, and for operators."""
    routes = APIRouter()

    @routes.post("/exchange_records")
    async def exchange_records(request: Request) -> Response:
        """The page proves that it comes from an instance with the same key, so no other key is needed."""
        message = await read_message(request, RecordPage, UNAUTHENTICATED_BODY_BYTES)
        page = RecordPage(_records(node).respond(message.page))
        return Response(msgspec.json.encode(page), media_type="application/json")

    @routes.post("/admin/confirm_state")
    async def confirm_state() -> Response:
        was_incomplete = await _records(node).confirm()
        return json_response({"node": node.identity.name, "was_incomplete": was_incomplete})

    return routes


def _records(node: Node) -> RecordKeeper:
    records = node.access.registration_policy.records
    if records is None:
        raise NotPermitted("this node has no key, so it keeps no records of tokens; set `security.key`")
    return records

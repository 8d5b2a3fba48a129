"""The access rules of a node, as far as no other module has them."""

from __future__ import annotations

from hierarchy.config.models import NodeConfig
from hierarchy.security.access import secret_variables


def test_the_variables_that_hold_secrets_are_known() -> None:
    security = {"key": "env:TREE_KEY", "accepted_key": "env:OLD", "join_token": "file:/t", "api_keys": "file:/k"}
    config = NodeConfig.model_validate({
        "name": "n",
        "advertise": "http://n:1",
        "settings": {"security": security},
        "engines": [{"name": "e", "kind": "vllm", "url": "http://e:1", "api_key": "env:VLLM_KEY"}],
    })  # fmt: skip
    commands = {"HIERARCHY_JOIN_TOKEN", "HIERARCHY_ADMIN_KEY", "HIERARCHY_API_KEY"}
    assert secret_variables(config) == {"TREE_KEY", "OLD", "VLLM_KEY"} | commands

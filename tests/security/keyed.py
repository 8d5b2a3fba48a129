"""Keys for nodes on loopback, as the tests of access rules need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierarchy.config.models import NodeConfig, Settings
from hierarchy.runtime.files import write_private_file
from hierarchy.security.keys import create_key
from hierarchy.security.tokens import Signer, create_tree_key, parent_key

ME = "http://127.0.0.1:0"


@dataclass
class Keys:
    """A folder with a tree key, an API key and an admin key."""

    folder: Path

    def __post_init__(self) -> None:
        self.tree = create_tree_key()
        write_private_file(self.folder / "tree.key", self.tree)
        self.client = create_key(self.folder / "api.yaml", "alice", None)
        self.admin = create_key(self.folder / "admin.yaml", "ops", None)

    def spec(self, **fields: Any) -> dict[str, Any]:
        """A `security` block that uses all of them."""
        files = {"key": "tree.key", "api_keys": "api.yaml", "admin_keys": "admin.yaml"}
        block = {name: f"file:{self.folder / file}" for name, file in files.items()}
        return {**block, "state_dir": str(self.folder / "state"), **fields}

    def settings(self, *, without: tuple[str, ...] = (), **fields: Any) -> Settings:
        """Settings of a tree whose reports and probes are quick, and whose nodes hold no requests."""
        block = {name: value for name, value in self.spec(**fields).items() if name not in without}
        return Settings.model_validate(
            {"report_interval_s": 0.2, "probe_interval_s": 0.1, "grace_s": 5.0, "hold_s": 0.0, "security": block}
        )

    def config(self, name: str = "root", **fields: Any) -> NodeConfig:
        return NodeConfig(name=name, listen=(("127.0.0.1", 0),), advertise=ME, settings=self.settings(**fields))

    def token(
        self,
        node: str,
        parent: str = "root",
        ttl_s: float = 60.0,
        models: list[str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> str:
        return Signer(parent, parent_key(self.tree, parent)).join_token(node, ttl_s, models, labels)

    def token_file(self, node: str, parent: str = "root", **options: Any) -> str:
        """A value of `security.join_token`: a file with a new join token."""
        path = self.folder / f"{node}.token"
        write_private_file(path, self.token(node, parent, **options))
        return f"file:{path}"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}

"""Certificates for tests: a certificate authority, and files of what it issued."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import trustme

from tests.support import DEADLINE_S


class Authority:
    """A certificate authority whose certificates and keys are files in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str, *hosts: str) -> dict[str, str]:
        """Issue a certificate. Returns the paths `cert`, `key` and `ca`, as the block `tls` of a node names them."""
        made = self.ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")))
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return {"cert": str(cert), "key": str(key), "ca": str(self.ca_file)}

    def client(self, identity: dict[str, str] | None = None) -> httpx.Client:
        """A client that trusts this authority. identity: the certificate that it shows, from `issue`."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if identity:
            context.load_cert_chain(identity["cert"], identity["key"])
        return httpx.Client(verify=context, timeout=DEADLINE_S)

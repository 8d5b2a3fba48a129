"""Trees to simulate."""

from __future__ import annotations

from pathlib import Path

from hierarchy.topology.declared import DeclaredTree, read_tree


def tree(
    folder: Path, *, roots: int = 1, sites: int = 2, engines: int = 2, policy: str = "shortest_queue"
) -> DeclaredTree:
    """Roots above sites above engines of kind `vllm`."""
    port = 21000
    nodes, below = [], []
    for number in range(roots):
        other = ", replica_of: root-0" if number else ""
        nodes.append(f'  root-{number}: {{listen: "localhost:{port + number}"{other}}}')
    for site in range(sites):
        nodes.append(f'  site-{site}: {{parent: root-0, listen: "localhost:{port + 100 + site}"}}')
        below += [
            f'  gpu-{site}-{n}: {{parent: site-{site}, kind: vllm, models: [m], url: "http://10.0.{site}.{n + 1}:80"}}'
            for n in range(engines)
        ]
    text = [
        "version: 1",
        f"defaults: {{dispatch: {policy}}}",
        "nodes:",
        *nodes,
        "engines:",
        *below,
    ]
    file = folder / "tree.yaml"
    file.write_text("\n".join(text) + "\n", "utf-8")
    return read_tree(file)

"""Everything that keeps a node from starting, found before it listens.

`serve` and `up` refuse such a node, a reload does not apply such a file, and `check` and `doctor` report it. All call
the functions below, so that none of them accepts what another one refuses. They import what they need only where a node
has such a thing: `check` is quick for a tree without keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hierarchy.config.address import join_address, overlaps
from hierarchy.config.models import NodeConfig
from hierarchy.config.refusal import Refusal, refusal_of
from hierarchy.errors import UsageError
from hierarchy.runtime.blocking import silent_paths
from hierarchy.runtime.listening import CannotListen, check_listen
from hierarchy.security.startup import check_state_dir, security_refusals, silent_refusals, start_paths

if TYPE_CHECKING:
    from hierarchy.security.access import Access


class CannotStart(UsageError):
    """Nodes do not start. `lines` has one line for each reason."""

    def __init__(self, found: Mapping[str, Iterable[Refusal]]) -> None:
        """
        Args:
            found: name of a node -> why it does not start.
        """
        self._lines = [refusal.line(node) for node, refusals in found.items() for refusal in refusals]
        super().__init__("\n".join(self._lines))

    @property
    def lines(self) -> list[str]:
        """One for each refusal."""
        return self._lines


def require_start(config: NodeConfig, environ: Mapping[str, str]) -> Access:
    """The access rules of a node that may start; its state folder exists afterwards.

    Raises:
        CannotStart: it may not, or could not work.
    """
    from hierarchy.security.access import Access

    if found := refusals(config, environ):
        raise CannotStart({config.name: found})
    access = Access(config, environ)
    check_state_dir(config, access, environ)
    return access


def hung(configs: Iterable[NodeConfig], environ: Mapping[str, str]) -> dict[str, list[Refusal]]:
    """Files of nodes whose file systems do not answer, by the name of the node. Takes some seconds if there are any."""
    nodes = list(configs)
    silent = silent_paths(path for config in nodes for path in start_paths(config, environ))
    found = {config.name: silent_refusals(config, environ, silent) for config in nodes} if silent else {}
    return {name: refusals for name, refusals in found.items() if refusals}


def refusals(config: NodeConfig, environ: Mapping[str, str]) -> list[Refusal]:
    """Everything that keeps a node from starting, except the addresses of `unusable_addresses`. Nothing is written.

    If a file system does not answer, nothing else: whoever touched its files would wait for ever.
    """
    if silent := hung([config], environ):
        return silent[config.name]
    found = security_refusals(config, environ)
    return [*found, *_overlapping(config), *_proxies(config, environ), *_engines(config)]


def _overlapping(config: NodeConfig) -> Iterator[Refusal]:
    """Addresses of the node itself at which it could not listen after the first."""
    listed = [*config.listen, *config.admin]
    for earlier, later in overlaps(listed):
        field = "listen" if later < len(config.listen) else "admin_listen"
        message = f"{join_address(listed[later])} is taken already, by {join_address(listed[earlier])}"
        yield Refusal((field,), message, "remove one of them")


def _proxies(config: NodeConfig, environ: Mapping[str, str]) -> Iterator[Refusal]:
    if config.proxy == "none" or (config.proxy == "env" and config.link == "direct"):
        return  # `proxy_for` returns none, too
    from hierarchy.uplink.dial import proxy_for

    for parent in config.parents:
        try:
            proxy_for(parent, config.proxy, environ, config.link)
        except UsageError as error:
            yield refusal_of(("proxy",), error, here=config.proxy == "env")
            return


def _engines(config: NodeConfig) -> Iterator[Refusal]:
    """Engines that the node starts itself, and that would end at once, however often it started them."""
    launched = [engine for engine in config.engines if engine.kind == "local" and engine.url is None]
    if not launched:
        return
    from hierarchy.engines import local, model_store

    for engine in launched:
        try:
            local.check_installed()
            model_store.check_model(engine.model or model_store.DEFAULT)
        except UsageError as error:
            yield refusal_of(("engines", engine.name, "model"), error, here=True)


def unusable_addresses(config: NodeConfig) -> Iterator[tuple[Refusal, bool]]:
    """Addresses at which this machine cannot listen now, and whether a process listens there already.

    That process may be the node itself.
    """
    for field, addresses in (("listen", config.listen), ("admin_listen", config.admin)):
        for host, port in addresses:
            try:
                check_listen(host, port)
            except CannotListen as error:
                message = f"cannot listen on {join_address((host, port))}: {error}"
                yield Refusal((field,), message, error.hint, here=True), error.is_taken

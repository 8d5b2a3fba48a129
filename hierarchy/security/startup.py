"""Whether a node may start with its configuration. Secure by default: one line names each thing that is missing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hierarchy.config.address import host_of, is_loopback
from hierarchy.config.blocks import SecuritySpec, TlsSpec
from hierarchy.config.models import EngineConfig, NodeConfig
from hierarchy.config.refusal import Refusal, refusal_of
from hierarchy.config.yaml import FieldPath
from hierarchy.errors import UsageError
from hierarchy.runtime.blocking import silence
from hierarchy.runtime.files import Busy, Hold, has_room, remove_unfinished
from hierarchy.runtime.folders import expand
from hierarchy.security.credential_store import CREDENTIAL_FILE
from hierarchy.security.secret import JOIN_TOKEN, folder_exposure
from hierarchy.security.state import RUNNING, credential_file, is_exposed, state_dir
from hierarchy.security.token_store import UNSAVED

if TYPE_CHECKING:
    from hierarchy.security.access import Access

CLEARTEXT = "set `tls` (--tls-cert, --tls-key), or `cleartext: true` (--cleartext) in a network that you trust"
INSECURE = "or set `insecure: true` (--insecure) if all machines that can reach it are trusted"
REPAIR = "repair that mount, or name a path elsewhere"
FULL = (errno.ENOSPC, errno.EDQUOT)  # the node starts all the same, and says so
STATE_DIR = "set `state_dir` (--state-dir)"
OWN_FOLDER = "make it this user's own (chown, chmod 700), or set `state_dir` (--state-dir)"
READ_AT_START = ("api_keys", "admin_keys", "key", "accepted_key")  # of `security`: each names a file or a variable
log = logging.getLogger("hierarchy.security")


def security_refusals(config: NodeConfig, environ: Mapping[str, str]) -> list[Refusal]:
    """Everything in a node's access rules that keeps it from starting. Nothing is written."""
    if not _reads_anything(config, environ):
        return list(_broken_rules(config, has_token=False))
    from hierarchy.security.access import Access  # a tenth of a second, for which most of `check` need not wait

    try:
        access = Access(config, environ)
    except UsageError as error:
        found = list(_unusable(config, environ)) or [refusal_of(("security",), error, here=True)]
        has_token = config.settings.security.join_token is not None  # one that cannot be read is in `found`
    else:
        found, has_token = [], bool(access.credentials)
    found += _broken_rules(config, has_token=has_token)
    if _needs_folder(config, environ, has_token=has_token):
        found += _unwritable(config, environ)
    return found


def silent_refusals(config: NodeConfig, environ: Mapping[str, str], silent: Collection[Path]) -> list[Refusal]:
    """One for each setting whose file is among `silent`: those whose file system does not answer."""
    found: dict[FieldPath, Path] = {}
    for path, field in start_paths(config, environ).items():
        if path in silent:
            found.setdefault(field, path)
    return [Refusal(field, f"{path}: {silence()}", REPAIR, here=True) for field, path in found.items()]


def start_paths(config: NodeConfig, environ: Mapping[str, str]) -> dict[Path, FieldPath]:
    """What a node reads at its start, by its setting. Paths that cannot be understood are reported where they are."""
    security, tls = config.settings.security, config.settings.tls
    refs: dict[FieldPath, str | None] = {
        ("security", name): getattr(security, name) for name in (*READ_AT_START, "join_token")
    }
    refs |= {("engines", engine.name, "api_key"): engine.api_key for engine in config.engines}
    named = {field: ref.removeprefix("file:") for field, ref in refs.items() if ref and not ref.startswith("env:")}
    named |= {("tls", name): path for name in ("cert", "key", "ca") if (path := getattr(tls, name))}
    found: dict[Path, FieldPath] = {}
    for field, text in named.items():
        with contextlib.suppress(UsageError):
            found[expand(text)] = field
    with contextlib.suppress(UsageError):
        found[state_dir(config, environ)] = ("security", "state_dir")
        found[credential_file(config, environ)] = ("security", "state_dir")
    return found


def _reads_anything(config: NodeConfig, environ: Mapping[str, str]) -> bool:
    """Whether the access rules depend on any file or secret."""
    if config.parents and JOIN_TOKEN in environ:
        return True
    try:
        if config.parents and os.path.lexists(credential_file(config, environ)):
            return True
    except (UsageError, OSError):
        return True
    return any(field != ("security", "join_token") for field, _ in _parts(config)) or bool(
        config.settings.security.join_token
    )


def _needs_folder(config: NodeConfig, environ: Mapping[str, str], *, has_token: bool) -> bool:
    """Whether the node must be able to write its state: used tokens, or a credential."""
    return bool(config.settings.security.key or (config.parents and has_token and CREDENTIAL_FILE not in environ))


def _unusable(config: NodeConfig, environ: Mapping[str, str]) -> Iterator[Refusal]:
    """What of a node's files and secrets cannot be used, each tried as if it were the only one."""
    found = [_tried(field, alone, environ) for field, alone in _parts(config)]
    yield from dict.fromkeys(refusal for refusal in found if refusal is not None)


def _parts(config: NodeConfig) -> Iterator[tuple[FieldPath, NodeConfig]]:
    """Each setting that is read at the start, and the node with that setting alone."""
    security, tls = config.settings.security, config.settings.tls
    for name in READ_AT_START:
        value = getattr(security, name)
        if value is not None:
            one = SecuritySpec.model_validate({name: value, "state_dir": security.state_dir})
            yield ("security", name), _only(config, security=one)
    if config.parents:
        one = SecuritySpec(join_token=security.join_token, state_dir=security.state_dir)
        yield ("security", "join_token"), _only(config, security=one, parents=config.parents)
    if tls != TlsSpec():
        yield ("tls",), _only(config, tls=tls)
    for engine in config.engines:
        if engine.api_key:
            yield ("engines", engine.name, "api_key"), _only(config, engines=(engine,))


def _only(
    config: NodeConfig,
    security: SecuritySpec | None = None,
    tls: TlsSpec | None = None,
    engines: tuple[EngineConfig, ...] = (),
    parents: tuple[str, ...] = (),
) -> NodeConfig:
    blocks = {"security": security or SecuritySpec(), "tls": tls or TlsSpec()}
    settings = config.settings.model_copy(update=blocks)
    return config.model_copy(update={"settings": settings, "engines": engines, "parents": parents})


def _tried(field: FieldPath, alone: NodeConfig, environ: Mapping[str, str]) -> Refusal | None:
    from hierarchy.security.access import Access

    try:
        Access(alone, environ)
    except UsageError as error:
        return refusal_of(("security", "state_dir") if _is_of_state(error, alone, environ) else field, error, here=True)
    return None


def _is_of_state(error: UsageError, config: NodeConfig, environ: Mapping[str, str]) -> bool:
    """Whether an error is about the state folder, or a file in it."""
    try:
        return str(state_dir(config, environ)) in str(error)
    except UsageError as no_folder:
        return str(no_folder) == str(error)


def _broken_rules(config: NodeConfig, *, has_token: bool) -> Iterator[Refusal]:
    """What in the configuration itself keeps the node from starting."""
    security = config.settings.security
    if security.tokenless_workers and not security.allow:
        problem, hint = "`tokenless_workers` accepts workers by their addresses", "set `allow` (--allow 10.1.0.0/24)"
        yield Refusal(("security", "tokenless_workers"), problem, hint)
    if security.insecure:
        return
    for parent in config.parents:
        if parent.startswith("http:") and not security.cleartext and not is_loopback(host_of(parent)):
            yield Refusal(("parent",), f"it would connect to its parent {parent} without TLS", CLEARTEXT)
    if is_exposed(config):
        yield from _exposed(config, has_token=has_token)


def _exposed(config: NodeConfig, *, has_token: bool) -> Iterator[Refusal]:
    """Rules for a node that other machines can reach."""
    security, tls = config.settings.security, config.settings.tls
    where = ", ".join(f"{host}:{port}" for host, port in config.listen + config.admin if not is_loopback(host))
    if security.api_keys is None and not (config.parents and has_token):
        hint = f"make keys with `hierarchy key create` and set `api_keys` (--api-keys), {INSECURE}"
        problem = f"others can reach {where}, and it has no API keys for clients"
        # A node with a token needs none, and the token may come from the environment.
        yield Refusal(("listen",), problem, hint, here=bool(config.parents))
    accepts_nodes = config.children or not (config.engines or security.tokenless_workers)
    if security.key is None and accepts_nodes:
        hint = f"make one with `hierarchy token key --out tree.key` and set `key` (--key-file), {INSECURE}"
        problem = f"others can reach {where}, and it has no key to check its children's tokens"
        yield Refusal(("listen",), problem, hint)
    if not security.cleartext and tls.cert is None:
        yield Refusal(("listen",), f"others can reach {where} without TLS", CLEARTEXT)


def _unwritable(config: NodeConfig, environ: Mapping[str, str]) -> Iterator[Refusal]:
    """Whether `check_state_dir` would fail, without writing anything."""
    try:
        folder = state_dir(config, environ)
    except UsageError:
        return  # found when the secrets were read
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        reason = "Not a directory"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = "Permission denied"
    elif existing == folder and (exposed := folder_exposure(folder.stat(), os.geteuid())):
        yield Refusal(("security", "state_dir"), _not_safe(folder, exposed), OWN_FOLDER, here=True)
        return
    else:
        return
    yield Refusal(("security", "state_dir"), _not_written(folder, reason), STATE_DIR, here=True)


def check_state_dir(config: NodeConfig, access: Access, environ: Mapping[str, str]) -> None:
    """Raise `UsageError` if the node needs a state folder, for tokens or a credential, and cannot write to it, or
    others may."""
    if not _needs_folder(config, environ, has_token=bool(access.credentials)):
        return
    folder = state_dir(config, environ)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in FULL:  # requests need no disk
            return
        problem = _not_written(folder, error.strerror or str(error))
        raise UsageError(Refusal(("security", "state_dir"), problem, STATE_DIR).line(config.name)) from None
    exposed = folder_exposure(folder.stat(), os.geteuid())
    if exposed:
        refusal = Refusal(("security", "state_dir"), _not_safe(folder, exposed), OWN_FOLDER)
        raise UsageError(refusal.line(config.name))


def _not_safe(folder: Path, reason: str) -> str:
    return f"its state is not safe in {folder}: {reason}"


def full_disk(config: NodeConfig, environ: Mapping[str, str]) -> str:
    """What is wrong with the state folder of a node that starts all the same: its disk is full. "" if it is not."""
    if not (config.settings.security.state_dir or _needs_folder(config, environ, has_token=True)):
        return ""
    try:
        folder = state_dir(config, environ)
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        is_full = not has_room(existing)
    except (UsageError, OSError):  # a refusal, where it matters
        return ""
    return f"{existing}: {os.strerror(errno.ENOSPC)}, so its state cannot be saved; {UNSAVED}" if is_full else ""


def _not_written(folder: Path, reason: str) -> str:
    return f"its state cannot be written to {folder} ({reason})"


def hold_state_dir(config: NodeConfig, environ: Mapping[str, str]) -> Hold | None:
    """Hold the node's state folder until the process ends, so that `hierarchy state restore` leaves it alone.

    Returns None if there is no folder, or if its file system knows no locks, which is logged.

    Raises:
        UsageError: the state is being restored at this moment.
    """
    try:
        folder = state_dir(config, environ)
    except UsageError:  # a node that keeps nothing needs no folder
        return None
    if not folder.is_dir():
        return None
    try:
        return Hold(folder / RUNNING)
    except Busy:
        refusal = Refusal(("security", "state_dir"), f"{folder} is being restored", "start it when that has ended")
        raise UsageError(refusal.line(config.name)) from None
    except OSError as error:
        log.warning("%s: cannot be locked (%s): do not restore it while this node runs", folder, error.strerror)
        return None


def clean_state_dir(config: NodeConfig, environ: Mapping[str, str], now: float) -> None:
    """Remove what a killed process was writing in the state folder, which may be secrets. now: Unix seconds."""
    try:
        folder = state_dir(config, environ)
    except UsageError:
        return
    removed = remove_unfinished(folder, now)
    if removed:
        log.info("%s: removed %s, which a killed process had not finished", folder, ", ".join(sorted(removed)))


def log_risks(config: NodeConfig, access: Access) -> None:
    """Log the settings that reduce security."""
    security = config.settings.security
    if security.insecure:
        log.warning(
            "insecure: every machine that can reach this node may register, send requests and operate it, "
            "except where keys are set"
        )
    elif security.cleartext and (access.exposed or config.parents):
        log.warning("cleartext: what this node and other machines send to each other can be read on the way")
    if not config.settings.share_prefixes and access.client_keys is None and not config.parents:
        log.warning(
            "no callers are kept apart: `share_prefixes: false` needs `api_keys`, without which they all count as one"
        )
    if access.exposed and access.client_keys is None and not security.insecure:
        log.info("without `api_keys` this node serves only its parents")

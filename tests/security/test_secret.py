"""Secrets come from files of their owner or from the environment, and no message shows one."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from hierarchy.config.blocks import TlsSpec
from hierarchy.errors import UsageError
from hierarchy.runtime.files import write_private_file
from hierarchy.security.keys import KeyFile, create_key, read_keys
from hierarchy.security.secret import exposure, read_secret, read_secret_file
from hierarchy.security.tls import TlsContexts
from hierarchy.security.tokens import create_tree_key
from tests.certificates import Authority
from tests.support import at_once

ROOT = Path(__file__).parents[2]


def test_a_secret_comes_from_a_file_of_its_owner_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "s3cr3t\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(f"file:{path}", {}) == "s3cr3t"
    assert read_secret("env:X", {"X": " s3cr3t "}) == "s3cr3t"


@pytest.mark.parametrize("mode", [0o604, 0o666, 0o601, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "s3cr3t\n")
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"others may read .*mode {mode:04o}\); run: chmod 600 {path}") as caught:
        read_secret(f"file:{path}", {})
    assert "s3cr3t" not in str(caught.value)


US, OTHER, OUR_GROUPS, OTHER_GROUP = 1000, 1001, {0, 1000, 2000}, 3000
GUARDED = ""


@pytest.mark.parametrize(
    ("mode", "owner", "group", "expected"),
    [
        (0o600, US, US, GUARDED),
        (0o400, 0, 0, GUARDED),
        (0o440, 0, 2000, GUARDED),  # Kubernetes with fsGroup
        (0o640, 0, 1000, GUARDED),  # Debian's ssl-cert
        (0o640, US, 2000, GUARDED),
        (0o440, 0, 0, GUARDED),
        (0o600, US, OTHER_GROUP, GUARDED),  # the group has no access
        (0o644, US, US, "others may read this secret"),
        (0o641, 0, 2000, "others may read this secret"),
        (0o640, US, OTHER_GROUP, "a group that this process is not in may read this secret"),
        (0o440, 0, OTHER_GROUP, "a group that this process is not in may read this secret"),
        (0o440, OTHER, 2000, "its owner, 1001, is another user, who may read this secret"),
        (0o600, OTHER, OTHER, "its owner, 1001, is another user, who may read this secret"),
    ],
)
def test_who_may_have_a_secret(mode: int, owner: int, group: int, expected: str) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, group, 1, 0, 0, 0))
    assert exposure(found, is_secret=True, user=US, groups=OUR_GROUPS) == expected


@pytest.mark.parametrize(
    ("mode", "owner", "group", "expected"),
    [
        (0o600, OTHER, OTHER, GUARDED),  # the user who made it, in a container whose user is root
        (0o640, OTHER, OTHER_GROUP, "a group that this process is not in may read this secret"),
        (0o640, OTHER, 0, "its owner, 1001, is another user, who may read this secret"),
        (0o604, OTHER, OTHER, "others may read this secret"),
    ],
)
def test_root_may_use_the_secret_of_one_other_user(mode: int, owner: int, group: int, expected: str) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, group, 1, 0, 0, 0))
    assert exposure(found, is_secret=True, user=0, groups={0}) == expected


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        (0o644, OTHER_GROUP, GUARDED),
        (0o664, 2000, GUARDED),
        (0o664, OTHER_GROUP, "a group that this process is not in may write it"),
        (0o646, 2000, "others may write it"),
    ],
)
def test_what_is_no_secret_must_not_be_changed(mode: int, group: int, expected: str) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, OTHER, group, 1, 0, 0, 0))
    assert exposure(found, is_secret=False, user=US, groups=OUR_GROUPS) == expected


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_every_secret_may_be_mounted_as_kubernetes_does(tmp_path: Path, mode: int) -> None:
    secrets = tmp_path / "..2026_11_28"
    secrets.mkdir()
    issued = Authority(tmp_path).issue("node")
    (secrets / "tree.key").write_text(create_tree_key())
    (secrets / "tls.key").write_bytes(Path(issued["key"]).read_bytes())
    for name in ("tree.key", "tls.key"):
        (secrets / name).chmod(mode)
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to(secrets.name)
    assert len(read_secret(f"file:{tmp_path / 'tree.key'}", {})) > 20
    assert TlsContexts(TlsSpec(cert=issued["cert"], key=str(tmp_path / "tls.key"))).server is not None


def test_a_swapped_symbolic_link_is_followed(tmp_path: Path) -> None:
    for version in ("1", "2"):
        create_key(tmp_path / version / "keys.yaml", f"alice-{version}", None)
        (tmp_path / version / "keys.yaml").chmod(0o440)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    keys = KeyFile(tmp_path / "keys.yaml")
    (tmp_path / "..data_tmp").symlink_to("2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert at_once(keys.refresh())
    assert [entry.name for entry in read_keys(tmp_path / "keys.yaml")] == ["alice-2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another group")
def test_a_foreign_group_is_named_with_a_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private_file(path, "s3cr3t\n")
    os.chown(path, -1, 54321)
    path.chmod(0o640)
    with pytest.raises(UsageError, match=rf"a group .* \(mode 0640\); run: chmod 600 {path}"):
        read_secret_file(path)
    path.chmod(0o600)
    assert read_secret_file(path) == "s3cr3t"


def test_one_function_judges_the_mode_of_every_file() -> None:
    sources = {path: path.read_text("utf-8") for path in (ROOT / "hierarchy").rglob("*.py")}
    judging = {path.name for path, text in sources.items() if re.search(r"\bst_mode\b|S_IMODE", text)}
    assert judging - {"log_file.py"} == {"secret.py"}  # a new log has the mode of the one that was moved


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "esc\x1b[0m", "ü", "x" * 20_000])
def test_a_text_that_is_not_a_secret_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    write_private_file(path, text)
    for ref in (f"file:{path}", "env:X"):
        with pytest.raises(UsageError) as caught:
            read_secret(ref, {"X": text})
        assert str(caught.value).isascii()
        assert "\n" not in str(caught.value)
        assert "lines" not in str(caught.value)


@pytest.mark.parametrize("ref", ["env:MISSING", "file:/no/such/file"])
def test_the_error_for_a_missing_secret_names_its_place(ref: str) -> None:
    with pytest.raises(UsageError, match=ref.partition(":")[2]):
        read_secret(ref, {})

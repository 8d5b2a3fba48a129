"""The whole program in this process: `hierarchy ARGUMENTS`, as its `main` runs it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from unittest import mock

import pytest

from hierarchy import cli
from hierarchy.cli import flags


@dataclass(frozen=True)
class Ended:
    """How the program ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str


def program(*arguments: object, stdin: str = "", **environ: str) -> Ended:
    """Run the program. environ: variables added to the environment, from which keys are removed."""
    out, err = io.StringIO(), io.StringIO()
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name not in (flags.ADMIN_KEY, flags.API_KEY, flags.NODE_URL)
    }
    with (
        mock.patch.object(sys, "argv", ["hierarchy", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ, {"COLUMNS": "200", **hidden, **environ}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    assert isinstance(ended.value.code, int)
    return Ended(ended.value.code, out.getvalue(), err.getvalue())


def succeeds(*arguments: object, **environ: str) -> str:
    """The text on stdout of a run that ends with status 0 and writes nothing to stderr."""
    ended = program(*arguments, **environ)
    assert (ended.status, ended.stderr) == (0, ""), ended
    return ended.stdout.strip()


def fails(*arguments: object, status: int, stdin: str = "", lines: int = 1, **environ: str) -> str:
    """The one line on stderr, or as many as `lines`, of a run that ends with `status`, without `hierarchy: `."""
    ended = program(*arguments, stdin=stdin, **environ)
    assert ended.status == status, ended
    assert "Traceback" not in ended.stderr
    start, _, message = ended.stderr.partition("hierarchy: ")
    assert start == "", ended
    assert message.count("\n") == lines, ended
    return message.rstrip("\n")

from __future__ import annotations

import re

from typer.testing import CliRunner

from hierarchy import __version__, cli
from hierarchy.relay.downstream import connection


def test_it_tells_whether_the_data_path_is_compiled() -> None:
    said = CliRunner().invoke(cli.app, ["--version"], catch_exceptions=False)
    built = "interpreted" if connection.__file__.endswith(".py") else "compiled"
    assert (said.exit_code, said.stdout) == (0, f"hierarchy {__version__} ({built})\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)

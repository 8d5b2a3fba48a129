"""The command line: `hierarchy COMMAND`. Each command has a module; `program` puts them together and reports errors.

At its top a command's module imports only what its signature and its help need. What it works with is imported in its
body: each command waits for its own imports, and for those of no other.
"""

from __future__ import annotations

import sys

from hierarchy.cli.interrupts import end_at_once, own_signals
from hierarchy.runtime.standard_streams import open_closed


def main() -> None:
    """Entry point: runs the command in `sys.argv`, then ends the process. Ctrl-C ends it without a message."""
    open_closed()
    own_signals(sys.argv[1:])
    with end_at_once():
        from hierarchy.cli.program import run  # takes a tenth of a second, in which Ctrl-C must work, too

        sys.exit(run())

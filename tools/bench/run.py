"""`python tools/bench/run.py`: measure the router on this machine, beside nginx and, on request, beside its peers."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of this file's own folder, so that `bench` is the package that this file is a part of.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.cli import main

    main()

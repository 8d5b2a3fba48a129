"""`python tools/bench/run.py`: measure the router on this machine, and nginx and other routers for comparison."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Instead of this file's folder, so that `bench` can be imported as a package.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.cli import main

    main()

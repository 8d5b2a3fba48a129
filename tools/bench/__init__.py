"""The benchmark: `python tools/bench/run.py`, described in docs/reference/benchmarks.md, which it writes itself."""

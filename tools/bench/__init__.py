"""The benchmark: `python tools/bench/run.py`, described in docs/benchmarks.md, which it writes itself."""

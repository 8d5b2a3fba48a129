"""The command line that starts an engine of our own (`kind: local` or `simulated`, without a URL)."""

from __future__ import annotations

from hierarchy.config.models import EngineConfig


def engine_argv(engine: EngineConfig, port: int) -> list[str]:
    """Arguments for the `hierarchy` command. The engine ends when we do, even by `kill -9`."""
    argv = ["engine", engine.kind, "--port", str(port), "--exit-with-parent", "--name", engine.name]
    if engine.model is not None:
        argv += ["--model", engine.model]
    if engine.kind == "simulated":
        rates = engine.simulated
        argv += ["--prefill-tokens-per-s", str(rates.prefill_tokens_per_s)]
        argv += ["--decode-tokens-per-s", str(rates.decode_tokens_per_s)]
        argv += ["--slots", str(rates.slots), "--speed", str(engine.speed)]
    return argv

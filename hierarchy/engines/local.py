"""A real engine on this machine: llama.cpp's own HTTP server, from PyPI's `xllamacpp`, in this process.

Source: xllamacpp's README (`Server(CommonParams)`; its constructor returns once the model is loaded) and llama.cpp,
tools/server/README.md, for what the parameters mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierarchy.errors import UsageError

#: llama.cpp answers /health on the same threads that wait for a slot: a few for probes beyond any number of requests
HTTP_THREADS = 128


@dataclass(frozen=True)
class LocalOptions:
    """slots: requests at once. context_tokens: of each slot. threads: for computing; one leaves room for the nodes."""

    path: Path
    alias: str
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1
    slots: int = 4
    context_tokens: int = 2048


def import_xllamacpp() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed, or cannot be loaded here.
    """
    try:
        import xllamacpp
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "xllamacpp"
        reason = "is not installed" if missing else f"cannot be loaded ({error})"
        raise UsageError(f"xllamacpp {reason}: pip install 'hierarchy[local]'") from None
    return xllamacpp


def start(options: LocalOptions) -> Any:
    """Load the model and serve it. Returns xllamacpp's server, which serves until it is deleted; its
    `listening_address` is the URL. End the process rather than delete it: its destructor waits until the clients of
    all waiting requests have left, and may wait for ever if it runs right after the start.

    Raises:
        UsageError: llama.cpp refused to start; it said why on stderr.
    """
    xllamacpp = import_xllamacpp()
    try:
        return xllamacpp.Server(_params(xllamacpp, options))
    except RuntimeError as error:
        raise UsageError(f"llama.cpp cannot serve {options.path}: {error} Its own lines above say why.") from None


def _params(xllamacpp: Any, options: LocalOptions) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(options.path)
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.context_tokens * options.slots
    params.n_batch = 256  # between two batches it answers /metrics, and lets the other slots' streams go on
    params.n_threads_http = HTTP_THREADS
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.endpoint_metrics = True
    params.ui = False
    params.fit_params = False  # the sizes above are given, not to be fitted to the device
    params.cache_ram_mib = 256  # of prompts' states; the default would take 8 GiB
    params.verbosity = 1  # errors
    return params

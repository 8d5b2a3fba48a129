"""A real engine on this machine: llama.cpp's own HTTP server in this process, from the package `xllamacpp`.

Source: xllamacpp's README (`Server(CommonParams)`; its constructor returns when the model is loaded) and llama.cpp,
tools/server/README.md, for the meaning of the parameters.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierarchy.errors import UsageError
from hierarchy.release import install_command

#: llama.cpp answers /health on the threads in which requests wait for a slot, so there must be more threads than
#: requests
HTTP_THREADS = 128
CACHE_MB = 256  # for prompts that no slot holds any more; llama.cpp's own default is 8 GiB


@dataclass(frozen=True)
class LocalOptions:
    """Options of the engine."""

    path: Path  # of the GGUF file
    alias: str  # name under which the model is served
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1  # for computing; one leaves room for the nodes of a small machine
    slots: int = 4  # requests at the same time
    context_tokens: int = 2048  # of each slot
    cache_mb: int = CACHE_MB  # for prompts that no slot holds any more; 0: none


def import_xllamacpp() -> Any:
    """Import xllamacpp, which is an optional dependency, and return the module.

    Raises:
        UsageError: it is not installed, or cannot be loaded on this machine.
    """
    try:
        import xllamacpp
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "xllamacpp"
        reason = "is not installed" if missing else f"cannot be loaded ({error})"
        raise UsageError(f"xllamacpp {reason}: {install_command('local')}") from None
    return xllamacpp


def check_installed() -> None:
    """Raise `UsageError` if xllamacpp is not installed. It is not imported, which takes time and memory."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UsageError(f"xllamacpp is not installed; run: {install_command('local')}")


def start_server(options: LocalOptions) -> Any:
    """Load the model and serve it.

    Returns:
        xllamacpp's server, whose `listening_address` is the URL. It serves until the process ends. Do not delete it:
        its destructor waits until the clients of all waiting requests have left, and just after the start it may wait
        for ever.

    Raises:
        UsageError: llama.cpp did not start; it wrote the reason to stderr.
    """
    xllamacpp = import_xllamacpp()
    try:
        return xllamacpp.Server(_params(xllamacpp, options))
    except RuntimeError as error:
        raise UsageError(f"llama.cpp cannot serve {options.path}: {error}; see its own lines above") from None


def _params(xllamacpp: Any, options: LocalOptions) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(options.path)
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.context_tokens * options.slots
    params.n_batch = 256  # between two batches it answers /metrics, and continues the streams of the other slots
    params.n_threads_http = HTTP_THREADS
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.endpoint_metrics = True
    params.ui = False
    params.fit_params = False  # use the sizes above; do not fit them to the device
    params.cache_prompt = True  # what a slot holds of a prompt is not computed again
    params.cache_ram_mib = options.cache_mb
    params.verbosity = 1  # errors only
    return params

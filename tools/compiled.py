"""Compile the data path: `python tools/compiled.py INTO` writes its extension modules, which belong beside the sources.

mypyc turns modules of plain, typed Python into C. They behave the same and cost less CPU
(docs/reference/benchmarks.md). `pip install .` runs this if there is a C compiler (`build_hook.py`); without one the
same sources are interpreted. With `--whole`, INTO becomes a copy of the project, with its tests, that runs compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Modules that run for each request, and those that they use; not `relay.downstream.protocol`, which extends a class
#: of uvicorn's. They are compiled together, since only then do they call each other directly, without Python's lookups.
MODULES = (
    "balancing.candidates",
    "balancing.dispatch",
    "balancing.expected_wait",
    "balancing.lent_attempts",
    "balancing.policy",
    "balancing.prefix_choice",
    "balancing.retry_budget",
    "balancing.warm_first",
    "balancing.tiers",
    "http.body_scan",
    "http.framing",
    "http.json_scan",
    "http.model_field",
    "http.multipart",
    "http.prompt",
    "http.render",
    "http.request_head",
    "http.requirement",
    "http.response_check",
    "http.response_head",
    "http.splice",
    "labels",
    "prefix.cost",
    "prefix.fingerprint",
    "prefix.header",
    "prefix.index",
    "registry.candidates",
    "registry.child",
    "registry.child_labels",
    "registry.directory",
    "registry.ejection",
    "registry.health",
    "registry.hit_rate",
    "registry.load",
    "registry.measured_speed",
    "registry.membership",
    "registry.model_index",
    "registry.rates",
    "registry.registry",
    "registry.round_trip",
    "registry.totals",
    "registry.warmth",
    "relay.attempt",
    "relay.choosing",
    "relay.client",
    "relay.connecting",
    "relay.downstream.clients",
    "relay.downstream.connection",
    "relay.downstream.head_cache",
    "relay.downstream.intake",
    "relay.downstream.parts",
    "relay.downstream.pipelined",
    "relay.downstream.places",
    "relay.downstream.unread",
    "relay.exchange",
    "relay.fingerprints",
    "relay.held",
    "relay.held_bytes",
    "relay.holding",
    "relay.lane",
    "relay.lending",
    "relay.local_handlers",
    "relay.relief",
    "relay.request",
    "relay.response",
    "relay.retry",
    "relay.timeouts",
    "relay.turns",
    "relay.upstream.connection",
    "relay.upstream.destination",
    "relay.upstream.links",
    "relay.upstream.pool",
    "relay.verdict",
    "relay.warnings",
    "runtime.awake",
    "runtime.descriptors",
    "runtime.metrics",
    "security.caller",
    "wire.listing",
    "wire.subtree",
)
CANNOT = 3  # exit status: this machine cannot compile; nothing else is wrong
_BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
extensions = mypycify(
    ["--ignore-missing-imports", "--config-file=", *sys.argv[4:]],
    opt_level=sys.argv[3], debug_level="0", group_name="hierarchy", verbose=False,
)
setup(name="compiled", ext_modules=extensions, packages=[], script_args=["-q", "build_ext", "--build-lib", sys.argv[1],
      "--build-temp", sys.argv[2]])
"""


def obstacle() -> str:
    """Why this machine cannot compile; empty if it can."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"C compiler ({compiler}) not installed; Debian: apt install gcc libc6-dev"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers not installed; Debian: apt install python3-dev"
    missing = [name for name in ("mypyc", "setuptools") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} cannot be imported" if missing else ""


def compile_into(target: Path, optimisation: str = "3") -> None:
    """Write the extension modules below `target`. optimisation: the C compiler's -O.

    Raises:
        subprocess.CalledProcessError: the compiler failed; `output` has its messages.
    """
    paths = [f"hierarchy/{name.replace('.', '/')}.py" for name in MODULES]
    with tempfile.TemporaryDirectory(prefix="hierarchy-compile-") as folder:
        # A copy, since mypyc writes beside the sources, and must not read the cache of another run of mypy.
        shutil.copytree(ROOT / "hierarchy", Path(folder, "hierarchy"), ignore=shutil.ignore_patterns("*.so", "*.pyd"))
        subprocess.run(
            [sys.executable, "-c", _BUILD, target.absolute(), Path(folder, "objects"), optimisation, *paths],
            cwd=folder,
            # PYTHONPATH stays: pip puts the build's own environment, with mypyc and all types, on it.
            env={**os.environ, "MYPYPATH": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )


def copy_whole(target: Path) -> None:
    """Copy the project to `target`, without generated files; an existing `target` is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    left_out = shutil.ignore_patterns(".venv", ".git", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, target, ignore=left_out, symlinks=True)


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile the data path to extension modules.")
    parser.add_argument("into", type=Path, help="the folder to write them to")
    parser.add_argument("--whole", action="store_true", help="make INTO a copy of the project that runs compiled")
    parser.add_argument("--quick", action="store_true", help="compile in half the time to slower code, for tests")
    args = parser.parse_args()
    reason = obstacle()
    if reason:
        print(f"not compiled: {reason}", file=sys.stderr)
        return CANNOT
    if args.whole:
        copy_whole(args.into)
    print(f"compiling {len(MODULES)} modules to native code, which takes one to four minutes", flush=True)
    began = time.monotonic()
    try:
        compile_into(args.into, "0" if args.quick else "3")
    except subprocess.CalledProcessError as error:
        print(error.output, file=sys.stderr)
        print("error: the data path could not be compiled", file=sys.stderr)
        return 1
    print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())

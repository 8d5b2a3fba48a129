"""What is timed in a process of its own, with the measured build."""

from __future__ import annotations

import asyncio
import os
import sys

from bench.benchmark import Benchmark
from bench.testbed import BenchError


async def run_alone(benchmark: Benchmark, module: str, what: str, *arguments: object) -> list[float]:
    """The numbers that a module prints when it is run with these arguments.

    Raises:
        BenchError: it ended with an error; names what could not be timed.
    """
    home = benchmark.testbed.home
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(home), str(home / "tools")])},
        cwd=benchmark.testbed.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode(errors="replace")
    if process.returncode:
        raise BenchError(f"{what} could not be timed: {(output.strip().splitlines() or ['no output'])[-1]}")
    return [float(number) for number in output.split()]

"""The benchmark: its arithmetic, and its parts on real sockets. No test asserts a speed."""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.skips import missing
from tests.support import eventually, eventually_async

TOOLS = Path(__file__).parents[2] / "tools"


@contextmanager
def tools_on_path() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    try:
        yield
    finally:
        sys.path.remove(str(TOOLS))


with tools_on_path():
    benchmark, engine_module, load, page, peers, plots, procfs, table, testbed = (
        import_module(f"bench.{name}")
        for name in ("benchmark", "engine", "load", "page", "peers", "plots", "procfs", "table", "testbed")
    )

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark needs /proc")
Row = table.Row


# -- figures -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_the_percentile_by_nearest_rank(values: list[float], part: float) -> None:
    found = table.percentile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values)
    assert sum(value < found for value in values) < part * len(values)


def test_figures_without_values_are_nan() -> None:
    assert math.isnan(table.percentile([], 0.5))
    assert math.isnan(table.middle([]))
    assert math.isnan(table.ratio([], []))
    assert Row("x", math.nan, "ms", 1.0).cells[1:4] == ("nothing measured", "≤ 1 ms", "missed")


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_a_ratio_is_not_affected_by_what_disturbs_both(disturbance: list[float]) -> None:
    values, others = [30 * factor for factor in disturbance], [20 * factor for factor in disturbance]
    assert table.ratio(values, others) == pytest.approx(1.5)
    assert table.middle(values) == median(values)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (Row("a", 1.42, "× nginx", 1.6, "why"), ("a", "1.42 × nginx", "≤ 1.6 × nginx", "reached", "why")),
        (Row("a", 15.0, "ms", 10.0), ("a", "15 ms", "≤ 10 ms", "missed: 1.50 × the target", "")),
        (Row("a", 0, "", 0), ("a", "0", "0", "reached", "")),
        (Row("a", 3, "", 0), ("a", "3", "0", "missed", "")),
        (Row("a", 12345.6, "µs"), ("a", "12,346 µs", "–", "–", "")),
        (Row("a", 0.0512, "ms"), ("a", "0.051 ms", "–", "–", "")),
    ],
)
def test_the_cells_of_a_row(row: Any, cells: tuple[str, ...]) -> None:
    assert row.cells == cells


def test_the_spread_of_a_single_round_has_no_range() -> None:
    assert table.spread([37.21], "µs") == "37.2 µs"
    assert table.spread([36.8, 39.0, 37.21], "µs") == "37.2 µs (36.8–39)"


def test_the_page_has_the_table_and_all_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "old.svg").touch()
    rows = [Row("json", 1.4, "× nginx", 1.6, "a|b"), Row("memory", 9.0, "KiB")]
    setting = page.Setting(benchmark.Scale(), 61.0, ["vllm-router"], "data path compiled by mypyc 2.4.1")
    written = page.write(rows, ["a note\nof two lines"], {"json.svg": "<svg/>"}, setting)
    text = written.read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(table.HEADS) + 1}
    assert "- a note of two lines" in text
    assert "shortest_queue" in text
    assert "vllm-router" in text
    assert "data path compiled by mypyc 2.4.1;" in text
    assert re.findall(r"\]\((.*\.svg)\)", text) == ["benchmarks/json.svg"]
    assert [chart.name for chart in (tmp_path / "benchmarks").iterdir()] == ["json.svg"]


# -- charts --------------------------------------------------------------------------------------------------


def rectangles(svg: str) -> list[float]:
    """Widths of the bars; the first rectangle is the background."""
    found = [element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("rect")]
    return [float(element.attrib["width"]) for element in found[1:]]


def test_the_length_of_a_bar_is_proportional_to_its_value() -> None:
    svg = plots.bars("µs", "µs", [plots.Bar("nginx", 20.0), plots.Bar("hierarchy", 40.0, "hierarchy")], line=30.0)
    short, long = rectangles(svg)
    assert long == pytest.approx(2 * short, rel=0.01)
    line = next(element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("line"))
    assert float(line.attrib["x1"]) == pytest.approx(plots.LABELS + 1.5 * short, abs=0.2)
    assert "40 µs" in svg


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_any_label_makes_a_valid_svg(label: str) -> None:
    root = ElementTree.fromstring(plots.bars(label, "ms", [plots.Bar(label, 1.0)]))
    assert [element.text or "" for element in root.iter() if element.tag.endswith("text")][:2] == [label, label]


def test_the_overview_shows_the_rows_that_have_a_target() -> None:
    rows = [Row("a", 1.0, "ms", 2.0), Row("b", 6.0, "ms", 2.0), Row("leaks", 0, "", 0), Row("c", 5.0, "ms")]
    svg = plots.overview(rows)
    assert len(rectangles(svg)) == 2
    assert plots.COLOURS["missed"] in svg
    assert "leaks" not in svg


# -- /proc ---------------------------------------------------------------------------------------------------


def test_a_stat_line_may_have_any_command_name() -> None:
    line = "4242 (a) R 1 (b c) S 17 4242 4242 0 -1 4194560 93 0 0 0 150 25 7 3 20 0 1 0 5 1000 10 18446744073709551615"
    assert procfs.parse_stat(line) == (17, 175)


def test_a_memory_field_is_found_by_its_full_name() -> None:
    text = "Rss:  100 kB\nPss_Anon:  30 kB\nPss:    42 kB\n"
    assert procfs.parse_kib(text, "Pss") == 42
    assert procfs.parse_kib(text, "Swap") is None


@linux
def test_cpu_and_memory_of_a_process_and_its_children() -> None:
    busy = r"x = bytearray(9 << 20)\nwhile True: x[0] = 1"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{busy}'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        try:
            pids = eventually(lambda: (found := procfs.family([parent.pid])) and len(found) == 2 and found)
            eventually(lambda: procfs.cpu_s(pids) > procfs.cpu_s([parent.pid]), "the child's CPU time")
            eventually(lambda: procfs.memory_kib(pids) > procfs.memory_kib([parent.pid]) + 9000, "the child's memory")
        finally:
            os.killpg(parent.pid, 9)
    assert procfs.cpu_s([parent.pid]) == procfs.memory_kib([parent.pid]) == 0


# -- nginx and peers -----------------------------------------------------------------------------------------


def test_all_placeholders_of_nginxs_configuration_are_filled_in(tmp_path: Path) -> None:
    text = testbed.nginx_config(tmp_path, 8123, ["http://127.0.0.1:1", "http://127.0.0.1:2"], 20_000)
    assert "$" not in text
    assert text.count("{") == text.count("}")
    assert "listen 127.0.0.1:8123 " in text
    assert re.findall(r"^\s+server (\S+);$", text, re.MULTILINE) == ["127.0.0.1:1", "127.0.0.1:2"]
    if nginx := testbed.find_nginx():
        config = tmp_path / "nginx.conf"
        config.write_text(text)
        done = subprocess.run([nginx, "-t", "-c", config, "-e", "stderr"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_pinned_and_gets_its_port_and_engines(name: str, tmp_path: Path) -> None:
    peer = peers.PEERS[name]
    assert re.fullmatch(r"[\w-]+(\[\w+\])?==[\d.]+", peer.requirement)
    command = [
        str(word) for word in peer.command(tmp_path, 8123, ["http://127.0.0.1:1", "http://127.0.0.1:2"], tmp_path)
    ]
    configuration = " ".join(command) + "".join(file.read_text() for file in tmp_path.iterdir())
    assert "8123" in command
    assert "http://127.0.0.1:1" in configuration
    assert "http://127.0.0.1:2" in configuration


@pytest.fixture
def processes() -> Iterator[Any]:
    with testbed.TestBed() as running:
        yield running
        started = [process.popen for process in running._processes]
    assert all(popen.returncode is not None for popen in started)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


@linux
def test_clients_count_what_an_engine_sends(processes: Any) -> None:
    async def check() -> None:
        engine = processes.engine("--chunks", 5, "--interval", 0.001)
        await processes.ready([testbed.direct([engine])])
        sample = load.Sample()
        connection = await load.Connection.open(engine.url, sample)
        assert await connection.send(load.completion(engine.url)) == 200
        assert (sample.responses, sample.chunks, len(sample.ttft_s)) == (1, 0, 1)
        assert await connection.send(load.completion(engine.url, stream=True)) == 200
        assert (sample.responses, sample.chunks, len(sample.ttft_s)) == (2, 5, 2)
        async with load.Load([engine.url], load.completion, 4) as users:
            await eventually_async(lambda: users.sample.responses > 20)
            assert users.new_sample().responses == 0
            await eventually_async(lambda: users.sample.responses > 20)
            assert not users.sample.errors

    run(check())


@linux
def test_an_engine_reports_which_clients_disconnected(processes: Any) -> None:
    async def check() -> None:
        engine = processes.engine("--interval", 30)
        await processes.ready([testbed.direct([engine])])
        connection = await load.Connection.open(engine.url, load.Sample())
        connection.send(load.completion(engine.url, stream=True, user="me"))
        await connection.started
        disconnected_at = time.monotonic()
        connection.transport.close()

        async def gone() -> dict[str, float]:
            async with testbed.httpx.AsyncClient(trust_env=False) as http:
                state = (await http.get(f"{engine.url}/gone")).json()
                return {} if state["running"] else state["gone"]

        seen = await eventually_async(gone, "the engine to notice")
        assert disconnected_at <= seen["me"] <= time.monotonic()

    run(check())


@linux
def test_a_chain_of_nginx_has_three_levels(processes: Any) -> None:
    async def check() -> None:
        engine = processes.engine()
        chain = processes.three_nginx([engine])
        if chain is None:
            pytest.skip(missing("nginx", "nginx-light"))
        await processes.ready([testbed.direct([engine]), chain])
        assert chain.urls == (chain.processes[0].url,)
        assert len({process.url for process in chain.processes}) == 3
        chain.processes[2].popen.terminate()  # SIGKILL would leave its worker process
        async with testbed.httpx.AsyncClient(trust_env=False) as http:
            await eventually_async(lambda: gone(http, chain.urls[0]), "the chain to fail after its last process ended")

    async def gone(http: Any, url: str) -> bool:
        return bool((await http.get(f"{url}/v1/models")).status_code == 502)

    run(check())


@linux
def test_nodes_are_started_from_the_copy_that_is_measured(tmp_path: Path) -> None:
    (tmp_path / "hierarchy").mkdir()
    (tmp_path / "hierarchy" / "__init__.py").touch()
    (tmp_path / "hierarchy" / "__main__.py").write_text("raise SystemExit('a node of the copy')\n")

    async def check() -> None:
        with testbed.TestBed(tmp_path) as running, pytest.raises(testbed.BenchError, match="a node of the copy"):
            await running.ready([running.one_level([])])

    run(check())


@linux
def test_clients_report_a_router_that_refuses(processes: Any) -> None:
    async def check() -> None:
        url = f"http://127.0.0.1:{testbed.free_port()}"
        async with load.Load([url], load.completion, 2) as users:
            await eventually_async(lambda: users.sample.errors)
        assert users.sample.responses == 0

    run(check())


@linux
def test_a_process_that_does_not_start_is_named_with_the_end_of_its_log(processes: Any) -> None:
    async def check() -> None:
        engine = processes.engine("--no-such-option")
        with pytest.raises(
            testbed.BenchError, match=r"engine ended with status 2; the end of its log:[^$]*no-such-option"
        ):
            await processes.ready([testbed.direct([engine])])

    run(check())


def test_the_sizes_of_requests_and_responses() -> None:
    engine = engine_module.Engine("m", 0.01, 128, 200)
    head, _, body = engine.response.partition(b"\r\n\r\n")
    assert len(body) == 1024
    assert b"content-length: 1024" in head
    assert engine.chunk == b"%x\r\n%b" % (208, engine.chunk[4:])
    assert len(load.chat("m", stream=False)) in range(900, 1025)
    assert len(load.chat("m", stream=False, size=400_000)) in range(399_900, 400_001)


# -- the command ---------------------------------------------------------------------------------------------


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOLS / "bench" / "run.py"), *arguments], capture_output=True, text=True, timeout=90
    )


@pytest.mark.slow
@linux
def test_a_quick_run_prints_the_complete_table() -> None:
    before = (TOOLS.parent / "docs" / "reference" / "benchmarks.md").exists()
    # Interpreted, since compiling takes a minute.
    done = bench("--quick", "--interpreted", "--only", "json,choosing", "--seconds", "0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if ", data path interpreted; Python" in line]
    for what in ("JSON request, one level", "JSON request, three levels", "choosing among 100 children, p2c"):
        row = next(line for line in lines if line.startswith(what))
        assert row.count("│") == len(table.HEADS) - 1
        assert "nothing measured" not in row
    assert not [line for line in lines if "failed" in line]
    assert (TOOLS.parent / "docs" / "reference" / "benchmarks.md").exists() == before


@linux
@pytest.mark.parametrize("arguments", [("--only", "jsno"), ("--peer", "nginx")])
def test_an_unknown_name_is_refused_with_a_message_of_one_line(arguments: tuple[str, str]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert done.stdout.startswith(f"error: {arguments[0]} {arguments[1]}: choose from ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""

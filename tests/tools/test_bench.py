"""The benchmark's own arithmetic and its parts on real sockets. Nothing here asserts how fast anything is."""

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
    bed, load, page, peers, plots, proc, stage, table = (
        import_module(f"bench.{name}") for name in ("bed", "load", "page", "peers", "plots", "proc", "stage", "table")
    )
    worker = import_module("bench.worker")

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark needs /proc")
Row = table.Row


# -- figures -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], part: float) -> None:
    found = table.percentile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values)
    assert sum(value < found for value in values) < part * len(values)


def test_figures_of_nothing_are_no_numbers() -> None:
    assert math.isnan(table.percentile([], 0.5))
    assert math.isnan(table.middle([]))
    assert math.isnan(table.ratio([], []))
    assert Row("x", math.nan, "ms", 1.0).cells[1:4] == ("nothing measured", "≤ 1 ms", "missed")


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_a_ratio_does_not_see_what_disturbs_both(disturbance: list[float]) -> None:
    ours, beside = [30 * factor for factor in disturbance], [20 * factor for factor in disturbance]
    assert table.ratio(ours, beside) == pytest.approx(1.5)
    assert table.middle(ours) == median(ours)


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
def test_a_row_says_what_was_measured_and_whether_that_will_do(row: Any, cells: tuple[str, ...]) -> None:
    assert row.cells == cells


def test_the_spread_of_one_round_is_no_range() -> None:
    assert table.spread([37.21], "µs") == "37.2 µs"
    assert table.spread([36.8, 39.0, 37.21], "µs") == "37.2 µs (36.8–39)"


def test_the_page_has_the_table_and_shows_every_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "old.svg").touch()
    rows = [Row("json", 1.4, "× nginx", 1.6, "a|b"), Row("memory", 9.0, "KiB")]
    setting = page.Setting(stage.Scale(), 61.0, ["vllm-router"], "data path compiled by mypyc 2.4.1")
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


def test_bars_are_as_long_as_their_values() -> None:
    svg = plots.bars("µs", "µs", [plots.Bar("nginx", 20.0), plots.Bar("ours", 40.0, "ours")], line=30.0)
    short, long = rectangles(svg)
    assert long == pytest.approx(2 * short, rel=0.01)
    line = next(element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("line"))
    assert float(line.attrib["x1"]) == pytest.approx(plots.LABELS + 1.5 * short, abs=0.2)
    assert "40 µs" in svg


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_any_label_makes_a_good_svg(label: str) -> None:
    root = ElementTree.fromstring(plots.bars(label, "ms", [plots.Bar(label, 1.0)]))
    assert [element.text or "" for element in root.iter() if element.tag.endswith("text")][:2] == [label, label]


def test_the_overview_shows_what_has_a_target() -> None:
    rows = [Row("a", 1.0, "ms", 2.0), Row("b", 6.0, "ms", 2.0), Row("leaks", 0, "", 0), Row("c", 5.0, "ms")]
    svg = plots.overview(rows)
    assert len(rectangles(svg)) == 2
    assert plots.COLOURS["missed"] in svg
    assert "leaks" not in svg


# -- /proc ---------------------------------------------------------------------------------------------------


def test_a_stat_line_is_read_past_any_name_of_a_command() -> None:
    line = "4242 (a) R 1 (b c) S 17 4242 4242 0 -1 4194560 93 0 0 0 150 25 7 3 20 0 1 0 5 1000 10 18446744073709551615"
    assert proc.parse_stat(line) == (17, 175)


def test_kilobytes_are_found_by_their_whole_name() -> None:
    text = "Rss:  100 kB\nPss_Anon:  30 kB\nPss:    42 kB\n"
    assert proc.parse_kib(text, "Pss") == 42
    assert proc.parse_kib(text, "Swap") is None


@linux
def test_cpu_and_memory_of_a_process_and_its_children() -> None:
    busy = r"x = bytearray(9 << 20)\nwhile True: x[0] = 1"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{busy}'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        try:
            pids = eventually(lambda: (found := proc.family([parent.pid])) and len(found) == 2 and found)
            eventually(lambda: proc.cpu_s(pids) > proc.cpu_s([parent.pid]), "the child's CPU time")
            eventually(lambda: proc.memory_kib(pids) > proc.memory_kib([parent.pid]) + 9000, "the child's memory")
        finally:
            os.killpg(parent.pid, 9)
    assert proc.cpu_s([parent.pid]) == proc.memory_kib([parent.pid]) == 0


# -- nginx and peers -----------------------------------------------------------------------------------------


def test_nginxs_configuration_has_no_blanks_left(tmp_path: Path) -> None:
    text = bed.nginx_config(tmp_path, 8123, ["http://127.0.0.1:1", "http://127.0.0.1:2"], 20_000)
    assert "$" not in text
    assert text.count("{") == text.count("}")
    assert "listen 127.0.0.1:8123 " in text
    assert re.findall(r"^\s+server (\S+);$", text, re.MULTILINE) == ["127.0.0.1:1", "127.0.0.1:2"]
    if nginx := bed.find_nginx():
        config = tmp_path / "nginx.conf"
        config.write_text(text)
        done = subprocess.run([nginx, "-t", "-c", config, "-e", "stderr"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_pinned_and_told_its_port_and_engines(name: str, tmp_path: Path) -> None:
    peer = peers.PEERS[name]
    assert re.fullmatch(r"[\w-]+(\[\w+\])?==[\d.]+", peer.requirement)
    command = [
        str(word) for word in peer.command(tmp_path, 8123, ["http://127.0.0.1:1", "http://127.0.0.1:2"], tmp_path)
    ]
    said = " ".join(command) + "".join(file.read_text() for file in tmp_path.iterdir())
    assert "8123" in command
    assert "http://127.0.0.1:1" in said
    assert "http://127.0.0.1:2" in said


@pytest.fixture
def processes() -> Iterator[Any]:
    with bed.Bed() as running:
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
        engine = processes.worker("--chunks", 5, "--interval", 0.001)
        await processes.ready([bed.direct([engine])])
        sample = load.Sample()
        connection = await load.Connection.open(engine.url, sample)
        assert await connection.ask(load.completion(engine.url)) == 200
        assert (sample.answers, sample.chunks, len(sample.ttft_s)) == (1, 0, 1)
        assert await connection.ask(load.completion(engine.url, stream=True)) == 200
        assert (sample.answers, sample.chunks, len(sample.ttft_s)) == (2, 5, 2)
        async with load.Load([engine.url], load.completion, 4) as users:
            await eventually_async(lambda: users.sample.answers > 20)
            assert users.new_sample().answers == 0
            await eventually_async(lambda: users.sample.answers > 20)
            assert not users.sample.errors

    run(check())


@linux
def test_an_engine_tells_which_clients_left(processes: Any) -> None:
    async def check() -> None:
        engine = processes.worker("--interval", 30)
        await processes.ready([bed.direct([engine])])
        connection = await load.Connection.open(engine.url, load.Sample())
        connection.ask(load.completion(engine.url, stream=True, user="me"))
        await connection.started
        left = time.monotonic()
        connection.transport.close()

        async def gone() -> dict[str, float]:
            async with bed.httpx.AsyncClient(trust_env=False) as http:
                said = (await http.get(f"{engine.url}/gone")).json()
                return {} if said["running"] else said["gone"]

        seen = await eventually_async(gone, "the engine to notice")
        assert left <= seen["me"] <= time.monotonic()

    run(check())


@linux
def test_a_chain_of_nginx_is_reached_through_its_first(processes: Any) -> None:
    async def check() -> None:
        engine = processes.worker()
        chain = processes.three_nginx([engine])
        if chain is None:
            pytest.skip("nginx is not on this machine")
        await processes.ready([bed.direct([engine]), chain])
        assert chain.urls == (chain.processes[0].url,)
        assert len({process.url for process in chain.processes}) == 3
        chain.processes[2].popen.terminate()  # SIGKILL would leave its worker process
        async with bed.httpx.AsyncClient(trust_env=False) as http:
            await eventually_async(lambda: gone(http, chain.urls[0]), "the chain to end where its last one did")

    async def gone(http: Any, url: str) -> bool:
        return bool((await http.get(f"{url}/v1/models")).status_code == 502)

    run(check())


@linux
def test_nodes_are_those_of_the_copy_that_is_measured(tmp_path: Path) -> None:
    (tmp_path / "hierarchy").mkdir()
    (tmp_path / "hierarchy" / "__init__.py").touch()
    (tmp_path / "hierarchy" / "__main__.py").write_text("raise SystemExit('a node of the copy')\n")

    async def check() -> None:
        with bed.Bed(tmp_path) as running, pytest.raises(bed.BedError, match="a node of the copy"):
            await running.ready([running.one_level([])])

    run(check())


@linux
def test_clients_report_a_router_that_refuses(processes: Any) -> None:
    async def check() -> None:
        url = f"http://127.0.0.1:{bed.free_port()}"
        async with load.Load([url], load.completion, 2) as users:
            await eventually_async(lambda: users.sample.errors)
        assert users.sample.answers == 0

    run(check())


@linux
def test_what_does_not_start_is_named_with_its_last_words(processes: Any) -> None:
    async def check() -> None:
        engine = processes.worker("--no-such-option")
        with pytest.raises(bed.BedError, match=r"worker ended with status 2; the end of its log:[^$]*no-such-option"):
            await processes.ready([bed.direct([engine])])

    run(check())


def test_an_engines_answers_have_the_sizes_that_are_claimed() -> None:
    engine = worker.Engine("m", 0.01, 128, 200)
    head, _, body = engine.answer.partition(b"\r\n\r\n")
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


@linux
def test_a_quick_run_prints_a_whole_table() -> None:
    before = (TOOLS.parent / "docs" / "reference" / "benchmarks.md").exists()
    # A compiled copy takes a minute to make, which a test that others run beside does not have.
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
def test_an_unknown_name_is_refused_in_one_line(arguments: tuple[str, str]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert done.stdout.startswith(f"error: {arguments[0]} {arguments[1]}: choose from ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""

"""The `speed` of an engine: a number, or measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hierarchy.config.models import EngineSpec, read
from hierarchy.config.speed import MeasuredSpeed


def spec(speed: object) -> EngineSpec:
    return EngineSpec.model_validate({"parent": "root", "kind": "vllm", "speed": speed})


@pytest.mark.parametrize(
    ("written", "start", "is_measured"),
    [(2, 2.0, False), (0.5, 0.5, False), ("measured", 1.0, True), ({"measured": 0.05}, 0.05, True)],
)
def test_a_speed_is_read_and_written(written: object, start: float, is_measured: bool) -> None:
    speed = spec(written).speed
    assert (float(speed), isinstance(speed, MeasuredSpeed)) == (start, is_measured)
    assert spec(speed).speed == speed
    assert spec(written).model_dump(mode="json")["speed"] == written


def test_a_measured_speed_is_another_one_than_a_declared_one() -> None:
    """So that a reload sees the change."""
    assert spec("measured") != spec(1)
    assert spec("measured") == spec({"measured": 1})
    assert len({spec("measured").speed, spec(1).speed, spec({"measured": 1.0}).speed}) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "engines.e.speed: must be greater than 0, not 0"),
        ("fast", "engines.e.speed: 'fast' is not a speed; write a number, `measured`, or `{measured: NUMBER}`"),
        ("{measured: -1}", "engines.e.speed: must be greater than 0, not -1"),
        ("{measured: 1, from: 2}", "engines.e.speed: a mapping is not a speed"),
        ("true", "engines.e.speed: true is not a speed"),
        (".inf", "engines.e.speed: must be greater than 0, not inf"),
        (".nan", "engines.e.speed: must be greater than 0, not nan"),
    ],
)
def test_a_bad_speed_is_refused_with_its_line_and_a_hint(tmp_path: Path, value: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    head = 'version: 1\nnodes: {r: {listen: "localhost:21001"}}\nengines:\n  e:\n    parent: r\n    kind: openai\n'
    path.write_text(head + f'    url: "http://localhost:1"\n    speed: {value}\n')
    problems = [str(problem) for problem in read(path).problems]
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}:8: {message}")

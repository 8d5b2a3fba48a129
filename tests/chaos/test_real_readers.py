"""Go itself reads what a node would forward: `encoding/json` and `Request.FormValue`, as Ollama and LocalAI do.

Beside the requests of `model_readers`, random changes of them. What the node forwards names one model to Go.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierarchy.errors import BadRequest
from hierarchy.http.body_scan import Found
from hierarchy.http.content_type import ambiguity, boundary_of
from hierarchy.http.model_field import find_model
from tests.whole.model_readers import ORDINARY, OTHER, Sent, go_like, requests

CHANGED = 200_000  # requests
SOURCE = Path(__file__).parent / "readers" / "reader.go"
#: what is put into requests
PIECES = [
    *b'"model":"n" "Model" "n" n , : { } [ ] " \\" \\ \\u006d \\u0000 // /* --x1 --x1-- = ; %6d null 1e5 NaN'.split(),
    *(b"\0", b"\n", b"\r\n", b"\r\n\r\n", b"\r\n--x1\r\n", b"\r\n--x1--\r\n", b"\xef\xbb\xbf", b"\xff"),
    *(b'; name="model"', b"; name=model", b"; name*=utf-8''model", b'; filename=""', b"; filename*=utf-8''a"),
    b'Content-Disposition: form-data; name="model"\r\n\r\nn',
    b"Content-Transfer-Encoding: quoted-printable\r\n",
]  # fmt: skip


def read_by_go(program: Path, sent: list[Sent]) -> list[set[str]]:
    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    lines = [
        json.dumps(
            {"body": text(one.body), "query": text(one.query), "fields": [list(map(text, pair)) for pair in one.fields]}
        )
        for one in sent
    ]
    out = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60)
    return [set(json.loads(line)) for line in out.stdout.splitlines()]


def forwarded(one: Sent) -> Found | None:
    """What a node finds; None if it refuses the request."""
    fields = dict(one.fields)
    if len(fields) < len(one.fields) or ambiguity(b"/v1/completions" + one.query, fields):
        return None
    try:
        return find_model(one.body, boundary_of(fields.get(b"content-type", b"")))
    except BadRequest:
        return None


def changed(rng: random.Random) -> Iterator[Sent]:
    """Requests of which up to five places were changed."""
    seeds = [one for one in [*requests(), *ORDINARY] if len(one.body) < 3000]
    good = [one for one in seeds if forwarded(one)]
    while True:
        one = rng.choice(rng.choice([seeds, good]))
        body = bytearray(one.body)
        for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
            at = rng.randrange(len(body) + 1)
            behind = at + rng.choice([0, 0, 1, 5, 20])
            body[at:behind] = rng.choice([*PIECES, b"", bytes([rng.randrange(256)]), bytes(body[at - 30 : at])])
        yield Sent(bytes(body), one.query, one.fields)


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
def test_go_finds_no_other_model_in_what_is_forwarded(full: bool, tmp_path: Path) -> None:
    if not full:
        pytest.skip("only with --full: it compiles a program")
    program = tmp_path / "reader"
    subprocess.run(["go", "build", "-o", program, SOURCE], check=True, timeout=300)
    corpus = [*requests(), *ORDINARY]
    found = read_by_go(program, corpus)
    assert sum(OTHER in models for models in found) > 100  # it would run the other model
    assert all(OTHER in go_like(one) for one, models in zip(corpus, found, strict=True) if OTHER in models)
    corpus += itertools.islice(changed(random.Random(1)), CHANGED)
    passed = [(one, node.model) for one in corpus if (node := forwarded(one)) is not None]
    read = read_by_go(program, [one for one, _ in passed])
    foreign = [one for (one, model), models in zip(passed, read, strict=True) if models - {model}]
    print(f"\n{len(corpus)} bodies, {len(passed)} forwarded: Go finds another model in {len(foreign)}")  # noqa: T201
    assert foreign == []

"""What client libraries and curl send names one model to every reader, or is refused with one line that says how.

An engine that stores what it gets is behind a real node. The libraries write the requests; the engine's answers do not
matter to this test.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hierarchy.security.keys import create_key
from tests.cluster import Cluster, Running
from tests.security.keyed import Keys
from tests.whole.model_readers import READERS
from tests.whole.test_model_bodies import Engine, served

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
TOOL = {
    "name": "models",
    "description": "model",
    "parameters": {"type": "object", "properties": {"Model": {"type": "string"}}},
}
CHAT = [
    {"role": "system", "content": 'Say "model": \\u0041 \N{GRINNING FACE}'},
    {"role": "user", "content": [{"type": "text", "text": "é"}, {"type": "image_url", "image_url": {"url": PIXEL}}]},
]


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Running, str, Engine]]:
    keys, engine = Keys(tmp_path), Engine(["m", "n"])
    with served(cluster, keys, engine, create_key(keys.folder / "api.yaml", "bob", ["m"])) as (running, key):
        yield running, key, engine


def ran(engine: Engine) -> int:
    """How many requests came to the engine; each names one model to all readers."""
    for one in engine.got:
        assert {frozenset(reader(one)) for reader in READERS.values()} <= {frozenset({"m"}), frozenset()}, one
    return len(engine.got)


def sound(name: str = 'a "b"; 1 \\ model (é) username=x.wav') -> io.BytesIO:
    file = io.BytesIO(b"RIFF\0\0model\r\n--\r\n" * 50)
    file.name = name
    return file


def test_openais_library(node: tuple[Running, str, Engine]) -> None:
    openai = pytest.importorskip("openai")
    running, key, engine = node
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
    tools: Any = [{"type": "function", "function": TOOL}]
    calls: list[Callable[[], Any]] = [
        lambda: client.chat.completions.create(model="m", messages=CHAT, tools=tools, seed=1, logit_bias={"1": 2}),
        lambda: client.chat.completions.create(model="m", messages=CHAT, extra_body={"guided_json": {"model": 1}}),
        lambda: client.chat.completions.create(model="m", messages=CHAT, metadata={"model": "n"}, user="model"),
        lambda: list(client.chat.completions.create(model="m", messages=CHAT, stream=True)),
        lambda: client.completions.create(model="m", prompt=[1, 2, 3] * 2000, logprobs=1),
        lambda: client.embeddings.create(model="m", input=["a", "model"], encoding_format="base64"),
        lambda: client.responses.create(model="m", input="hello", tools=[{"type": "function", **TOOL}]),
        lambda: client.moderations.create(model="m", input="hello"),
        lambda: client.audio.transcriptions.create(model="m", file=sound(), timestamp_granularities=["word"]),
        lambda: client.audio.translations.create(model="m", file=("é.wav", sound(), "audio/wav"), prompt="model"),
        lambda: client.audio.speech.create(model="m", voice="alloy", input="model").read(),
        lambda: client.images.generate(model="m", prompt="a model"),
        lambda: client.images.edit(model="m", image=[sound(), sound()], prompt="a model", mask=sound()),
        lambda: client.images.create_variation(model="m", image=sound()),
    ]
    for place, call in enumerate(calls):
        with contextlib.suppress(openai.APIResponseValidationError, AttributeError, TypeError, KeyError, ValueError):
            call()
        assert ran(engine) == place + 1, place
    with pytest.raises(openai.BadRequestError, match="which readers understand in several ways; write form-data") as at:
        client.audio.transcriptions.create(model="m", file=sound("a; name=model.wav"))
    assert "\n" not in str(at.value)
    assert ran(engine) == len(calls)


def test_anthropics_library(node: tuple[Running, str, Engine]) -> None:
    anthropic = pytest.importorskip("anthropic")
    running, key, engine = node
    client = anthropic.Anthropic(base_url=running.url, api_key=key, max_retries=0)
    tools: Any = [{"name": "model", "input_schema": TOOL["parameters"]}]
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "é", "cache_control": {"type": "ephemeral"}}]}
    ]
    for place, more in enumerate([{}, {"tools": tools, "metadata": {"user_id": "model"}}, {"system": "Model"}]):
        with contextlib.suppress(anthropic.APIResponseValidationError, AttributeError, TypeError, ValueError):
            client.messages.create(model="m", max_tokens=5, messages=messages, **more)
        assert ran(engine) == place + 1


def test_langchain(node: tuple[Running, str, Engine]) -> None:
    langchain = pytest.importorskip("langchain_openai")
    running, key, engine = node
    chat = langchain.ChatOpenAI(model="m", base_url=f"{running.url}/v1", api_key=key, max_retries=0)
    for place, one in enumerate([chat, chat.bind_tools([{"type": "function", "function": TOOL}])]):
        with contextlib.suppress(Exception):
            one.invoke("é")
        assert ran(engine) == place + 1


def test_requests(node: tuple[Running, str, Engine]) -> None:
    requests = pytest.importorskip("requests")
    running, key, engine = node
    url, fields = f"{running.url}/v1/audio/transcriptions", {"authorization": f"Bearer {key}"}
    chat: dict[str, Any] = {"model": "m", "messages": CHAT}
    assert requests.post(f"{running.url}/v1/chat/completions", json=chat, headers=fields).status_code == 200
    for name in ("a.wav", 'é "b"; c=d.wav', "漢.wav"):
        files = {"file": (name, b"RIFF\r\n--", "audio/wav"), "model": (None, "m")}
        assert requests.post(url, files=files, headers=fields).status_code == 200
        files.pop("model")
        assert requests.post(url, files=files, data={"model": "m"}, headers=fields).status_code == 200
    assert ran(engine) == 7


def test_aiohttp(node: tuple[Running, str, Engine]) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    running, key, engine = node

    async def post() -> list[int]:
        statuses = []
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client:
            for name in ("a.wav", 'é "b"; c=d.wav'):
                form = aiohttp.FormData({"model": "m"})
                form.add_field("file", b"RIFF", filename=name, content_type="audio/wav")
                async with client.post(f"{running.url}/v1/audio/transcriptions", data=form) as response:
                    statuses.append(response.status)
            async with client.post(f"{running.url}/v1/completions", json={"model": "m", "prompt": "é"}) as response:
                statuses.append(response.status)
        return statuses

    assert asyncio.run(post()) == [200, 200, 200]
    assert ran(engine) == 3


FETCH = """
const [url, key] = process.argv.slice(1), headers = {authorization: "Bearer " + key};
const form = new FormData();
form.set("model", "m");
form.set("file", new Blob(["RIFF\\r\\n--"], {type: "audio/wav"}), 'é "b"; c=d.wav');
const statuses = [(await fetch(url + "/v1/audio/transcriptions", {method: "POST", headers, body: form})).status];
for (const type of ["application/json", "application/json; charset=utf-8", undefined]) {
  const more = type ? {...headers, "content-type": type} : headers;
  const body = JSON.stringify({model: "m", messages: [{role: "user", content: "\\u2028 é"}]});
  statuses.push((await fetch(url + "/v1/chat/completions", {method: "POST", headers: more, body})).status);
}
console.log(JSON.stringify(statuses));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_fetch_of_node(node: tuple[Running, str, Engine]) -> None:
    running, key, engine = node
    command = ["node", "--input-type=module", "-e", FETCH, running.url, key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if "FormData is not defined" in done.stderr:
        pytest.skip("this node has no fetch")
    assert json.loads(done.stdout) == [200] * 4, done.stderr
    assert ran(engine) == 4


def curl(node: tuple[Running, str, Engine], *options: str, path: str = "/v1/chat/completions") -> tuple[int, str]:
    running, key, _ = node
    command = ["curl", "-s", "-w", "%{http_code}", "-H", f"authorization: Bearer {key}", *options, running.url + path]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    body, status = text[:-3], int(text[-3:])
    return status, json.loads(body)["error"]["message"] if status != 200 else ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(node: tuple[Running, str, Engine], tmp_path: Path) -> None:
    file = tmp_path / "a;b.wav"
    file.write_bytes(b"model\r\n")
    text = tmp_path / "text"
    text.write_text("model")
    body = '{"model": "m", "messages": []}'
    json_type = "content-type: application/json"
    assert curl(node, "-d", body, "-H", json_type) == (200, "")
    assert curl(node, "-F", "model=m", "-F", f'file=@"{file}"', path="/v1/audio/transcriptions") == (200, "")
    assert curl(node, "-F", "model=m;type=text/plain", "-F", f"prompt=<{text}", path="/v1/audio/transcriptions") == (
        200,
        "",
    )
    status, message = curl(node, "-d", body)
    assert status == 400
    assert "content-type: application/json" in message
    assert "\n" not in message
    assert ran(node[2]) == 3

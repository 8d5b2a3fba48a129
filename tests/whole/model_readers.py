"""Three readers of requests, as engines and what is in front of them are written, and requests that they read apart.

Each reader returns every model that such a server could take from a request. Sources: Go, encoding/json and net/http
`Request.FormValue`; Python, `json.loads` and Starlette's form; Rust, serde_json and programs that search for the first
key. `tests/chaos/test_real_readers.py --full` lets Go itself read what a node forwards.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

OTHER = "n"  # the model that the client may not use
NAME = "m"  # the one that it may
#: fields that name models beside `model`
FURTHER = (
    "models", "fallbacks", "fallback_models", "draft_model", "lora", "lora_path", "adapter", "adapter_id", "engine",
    "deployment_id", "model_id", "model_name", "speculative_model",
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request: query with `?`, header fields beside host and length, and the body."""

    body: bytes
    query: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=lambda: [(b"content-type", b"application/json")])

    @property
    def content_types(self) -> list[bytes]:
        return [value for name, value in self.fields if name == b"content-type"]


# -- readers ----------------------------------------------------------------------------------------------------------


def go_like(sent: Sent) -> set[str]:
    """Keys without case, the last one; only the first JSON value; and query, form and file fields as one form."""
    found: set[str] = set()
    text = sent.body.decode("utf-8", "replace")
    flat = re.sub(r"\[{100,}\]{100,}", "[]", text)  # Go reads 10,000 levels
    try:
        pairs, _ = json.JSONDecoder(object_pairs_hook=list, parse_constant=_fail).raw_decode(flat.lstrip(" \t\r\n"))
        values = [value for key, value in pairs if key.casefold() == "model"]
        found |= {value for value in values[-1:] if isinstance(value, str)}
    except (ValueError, TypeError, RecursionError):
        pass
    for separator in ("&", ";"):
        found |= {value for key, value in parse_qsl(sent.query[1:].decode("latin-1"), separator=separator) if _is(key)}
    for content_type in sent.content_types:
        if b"urlencoded" in content_type.lower():
            found |= {value for key, value in parse_qsl(text) if _is(key)}
        found |= set(_mime_form(content_type, sent.body))
    return found


def python_like(sent: Sent) -> set[str]:
    """The last key, also in lax JSON, in UTF-16 and behind a byte order mark; Starlette's query and forms."""
    found: set[str] = set()
    try:
        data = json.loads(sent.body, strict=False)
        found |= {data["model"]} if isinstance(data.get("model"), str) else set()
    except (ValueError, AttributeError, KeyError, RecursionError):
        pass
    found |= {value for key, value in parse_qsl(sent.query[1:].decode("latin-1")) if key == "model"}
    for content_type in sent.content_types:
        if b"urlencoded" in content_type.lower():
            found |= {value for key, value in parse_qsl(sent.body.decode("latin-1")) if key == "model"}
        if content_type.lower().startswith(b"multipart/form-data"):
            found |= asyncio.run(_starlette_form(content_type, sent.body))
        found |= set(_mime_form(content_type, sent.body))  # as aiohttp does
    return found


def rust_like(sent: Sent) -> set[str]:
    """The first key and the last, wherever the JSON ends; and a form that is split at lines, whatever ends them."""
    found: set[str] = set()
    try:
        decoder = json.JSONDecoder(object_pairs_hook=list, strict=False)
        pairs, _ = decoder.raw_decode(sent.body.decode("utf-8-sig").lstrip())
        values = [value for key, value in pairs if key == "model"]
        found |= {value for value in (*values[:1], *values[-1:]) if isinstance(value, str)}
    except (ValueError, TypeError, IndexError, RecursionError):
        pass
    for content_type in sent.content_types:
        for boundary in re.findall(rb'(?i)boundary\*?=(?:utf-8\'\')?"?([^";, ]+)', content_type):
            found |= set(_split_form(boundary, sent.body))
    return found | {value for key, value in parse_qsl(sent.query[1:].decode("latin-1")) if key == "model"}


def further(sent: Sent) -> set[str]:
    """The models that a server with fallbacks, adapters or draft models could take from fields beside `model`."""
    found: set[str] = set()
    try:
        data = json.loads(sent.body)
    except (ValueError, RecursionError):
        return found
    for key, value in data.items() if isinstance(data, dict) else ():
        if key.casefold() in FURTHER:
            found |= {one for one in (NAME, OTHER) if f'"{one}"' in json.dumps(value)}
    return found


READERS: dict[str, Callable[[Sent], set[str]]] = {"go": go_like, "python": python_like, "rust": rust_like}


def _fail(constant: str) -> None:
    raise ValueError(constant)


def _is(key: str) -> bool:
    return key.casefold() == "model"


def _mime_form(content_type: bytes, body: bytes) -> Iterator[str]:
    """As Go's mime/multipart: `name*` and its continuations count, and a part without a file name is a value."""
    head = b"content-type: " + content_type + b"\r\n\r\n"
    message = email.message_from_bytes(head + body, policy=email.policy.compat32)
    parts: Any = message.get_payload() if message.is_multipart() else []
    for part in parts:
        name = part.get_param("name", header="content-disposition")
        plain = name if isinstance(name, str) else unquote_to_bytes(name[2]).decode() if name else ""
        extended = re.search(r"name\*=utf-8''model\s*(?:;|$)", str(part.get("content-disposition", "")))
        if (_is(plain) or extended) and not part.get_filename():
            yield (part.get_payload(decode=True) or b"").decode("utf-8", "replace")


async def _starlette_form(content_type: bytes, body: bytes) -> set[str]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(Headers({"content-type": content_type.decode("latin-1")}), stream()).parse()
    except (MultiPartException, ValueError, KeyError, AssertionError, LookupError):
        return set()
    return {value for value in form.getlist("model") if not isinstance(value, UploadFile)}


def _split_form(boundary: bytes, body: bytes) -> Iterator[str]:
    for part in re.split(rb"(?:\r\n|\n|\r|^)--" + re.escape(boundary), body):
        head, _, value = part.replace(b"\r\n", b"\n").partition(b"\n\n")
        names = re.findall(rb"(?:^|[;\s])name\*?[0-9]*\*?=(?:utf-8'')?\"?([^\";\n]*)", head)
        if any(name.replace(b"\\", b"") == b"model" for name in names) or b"model" in b"".join(names)[:5]:
            yield value.decode("utf-8", "replace")


# -- requests that they may read apart ---------------------------------------------------------------------------------


def requests() -> Iterator[Sent]:
    """Requests in which a reader could find `OTHER` although they name `NAME`."""
    yield from map(Sent, _json_bodies())
    yield from _encodings()
    yield from _heads()
    yield from _forms()
    yield from map(Sent, _further())


def _json_bodies() -> Iterator[bytes]:
    keys = ["Model", "MODEL", "mODEL", "modeL", "MoDeL", "model\\u0000", "\\u0000model"]
    for place, letter in enumerate("model"):
        keys += [f"{'model'[:place]}\\u{ord(one):04x}{'model'[place + 1 :]}" for one in (letter, letter.upper())]
    keys += ["model", "\\u006D\\u006F\\u0064\\u0065\\u006C", "\\u004d\\u004f\\u0044\\u0045\\u004c"]
    paddings = ["", '"messages":[{"role":"user","content":"hi"}],', f'"prompt":"{"x" * 400}",', '"a":{"model":"m"},']
    for key in keys:
        for padding in paddings:
            yield f'{{{padding}"model":"{NAME}","{key}":"{OTHER}"}}'.encode()
            yield f'{{"{key}":"{OTHER}",{padding}"model":"{NAME}"}}'.encode()
    for body in (
        '{"model":"m"}{"model":"n"}',
        '{"model":"m"}\n{"model":"n"}',
        '{"model":"m"},"model":"n"',
        '[{"model":"n"}]',
        '{"model":"m","a":/*"*/"b","model":"n"/*"*/}',
        '{"model":"m"//"\n,"model":"n"//"\n}',
        "{'model':'n'}",
        '{model:"n","a":"model"}',
        '{"model":"m","a":NaN,"model":"n"}',
        '{"model":"m",,"model":"n"}',
        '{"model":["n"]}',
        '{"model":{"model":"n"}}',
        '{"model":"m","a":"\n","model":"n"}',
        '\0{"model":"n"}',
        '{"model":"m"}\0{"model":"n"}',
        '{"model":"m","a":01,"Model":"n"}',
        '{"Model":"n"}',
        '{"MODEL":"n"}',
    ):
        yield body.encode()
    yield b'{"a":' + b"[" * 5000 + b"]" * 5000 + b',"model":"m","Model":"n"}'
    yield b'{"model":"m",' + b'"a":1,' * 5000 + b'"Model":"n"}'
    yield b'{"model":"m","' + b"a" * 70000 + b'":1,"Model":"n"}'


def _encodings() -> Iterator[Sent]:
    both = f'{{"model":"{NAME}","model":"{OTHER}"}}'
    for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig"):
        yield Sent(both.encode(coding))
        yield Sent(f'{{"model":"{OTHER}"}}'.encode(coding))
        yield Sent(
            f'{{"model":"{NAME}"}}'.encode(),
            fields=[(b"content-type", b"application/json; charset=" + coding.encode())],
        )
    yield Sent(b'{"model":"m","a\xff":1,"Model":"n"}')
    yield Sent(b'{"a":"\xc0\xa2,\\"model\\":\\"n\\"","model":"m","MODEL":"n"}')
    yield Sent(b'{"model":"m"}', fields=[(b"content-encoding", b"gzip"), (b"content-type", b"application/json")])


def _heads() -> Iterator[Sent]:
    plain = b'{"model":"m"}'
    for query in (
        b"model=n",
        b"Model=n",
        b"MODEL=n",
        b"a=b&model=n",
        b"a=b;model=n",
        b"%6dodel=n",
        b"%6D%6F%64%65%6C=n",
        b"model",
        b"+model=n",
        b"model+=n",
        b"model[]=n",
        b"model[0]=n",
        b"model.x=n",
        b"m%6Fdel=n",
        b"&&model=n",
        b"model=n&model=m",
    ):
        yield Sent(plain, b"?" + query)
        yield Sent(b'{"messages":"' + b"x" * 300 + b'","model":"m"}', b"?" + query)
    polyglot = b'{"model":"m","a":"&model=n&"}'
    form = (
        b'{"model":"m","a":"\\r\\n"}',
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nn\r\n--x--\r\n',
        polyglot,
    )
    types: tuple[bytes, ...] = (
        b"application/x-www-form-urlencoded",
        b"Application/X-WWW-FORM-urlencoded",
        b"multipart/form-data",
        b"application/x-www-form-urlencoded; charset=utf-8",
        b"multipart/form-data; boundary*=utf-8''x",
        b"multipart/form-data; boundary=x; boundary=y",
        b"multipart/form-data; boundary=y; boundary=x",
        b"multipart/form-data; boundary*0=x",
        b"multipart/mixed; boundary=x",
        b'multipart/form-data; boundary="x',
        b"application/json, multipart/form-data; boundary=x",
        b"application/json; a, multipart/form-data; boundary=x",
        b"multipart/form-data; boundary=x; charset=utf-16",
    )
    for content_type in types:
        for body in form:
            yield Sent(body, fields=[(b"content-type", content_type)])
    json_type = (b"content-type", b"application/json")
    for other in types[:6]:
        yield Sent(polyglot, fields=[json_type, (b"content-type", other)])
        yield Sent(polyglot, fields=[(b"content-type", other), json_type])


def _form(*parts: bytes) -> bytes:
    return b"".join(b"--x1\r\n%b\r\n" % part for part in parts) + b"--x1--\r\n"


def _forms() -> Iterator[Sent]:
    multipart = [(b"content-type", b"multipart/form-data; boundary=x1")]
    own = b'Content-Disposition: form-data; name="model"\r\n\r\nm'
    dispositions: tuple[bytes, ...] = (
        b'form-data; name="model"',
        b"form-data; name=model",
        b'form-data; name="Model"',
        b"form-data; name*=utf-8''model",
        b"form-data; name=a; name*=utf-8''model",
        b'form-data; name="a"; name="model"',
        b'form-data; name="model"; name="a"',
        b'form-data; name*0="mod"; name*1="el"',
        b"form-data; name*0*=utf-8''mod; name*1=el",
        b'form-data; name="mod\\el"',
        b'form-data; name="model"; filename=""',
        b'form-data; name="model"; filename=',
        b'form-data; name="model"; filename',
        b"form-data; name=\"model\"; filename*=utf-8''",
        b'form-data; filename="x\\"; name="model"',
        b'form-data; name="a"; filename="x; name=model"',
        b'form-data; NAME="model"',
        b'Form-Data; name="model"',
        b'form-data; name=" model"',
        b'form-data; name="model[]"',
        b'attachment; name="model"',
        b'form-data;name="model"',
        b'form-data; name="a"\r\nContent-Disposition: form-data; name="model"',
        b'form-data;\r\n name="model"',
        b'form-data; name="model"\r\nContent-Disposition: form-data; name="a"',
        b'form-data; name ="model"',
        b"form-data; name='model'",
        b'form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16',
        b'form-data; name="a"\nContent-Disposition: form-data; name="model"',
        b'form-data; name="mod%65l"',
    )
    for disposition in dispositions:
        other = b"Content-Disposition: %b\r\n\r\nn" % disposition
        yield Sent(_form(own, other), fields=multipart)
        yield Sent(_form(other, own), fields=multipart)
    second = b'Content-Disposition: form-data; name="model"\r\n\r\nn'
    qp = b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=6E'
    for body in (
        _form(own) + _form(second),
        b"\r\n" + _form(second, own),
        b"x\r\n" + _form(own, second),
        _form(qp),
        _form(own, qp),
        _form(own, b"content-disposition: form-data; name=a\r\n\r\nb\n--x1\n" + second),
        _form(own, b"content-disposition: form-data; name=a\r\n\r\nb\r\n--x1 \r\n" + second),
        _form(own, b"content-disposition: form-data; name=a\r\n\r\nb\r--x1\r" + second),
        _form(own, second).replace(b"\r\n", b"\n"),
        _form(own).replace(b"\r\n--x1--", b"\n--x1\n" + second + b"\r\n--x1--"),
        _form(own, *[b"content-disposition: form-data; name=a\r\n\r\nb"] * 2000, second),
        _form(own, b"Content-Type: text/plain\r\n\r\n" + second),
        _form(own, b"\r\n\r\n" + second),
        b'{"model":"m"}' + _form(second),
    ):
        yield Sent(body, fields=multipart)
    yield Sent(_form(own), b"?model=n", multipart)


def _further() -> Iterator[bytes]:
    for name in (*FURTHER, "Fallbacks", "DRAFT_MODEL", "fallbac\\u212as", "model\\u017f"):
        for value in ('"n"', '["n"]', '["m","n"]', '[{"model":"n"}]'):
            yield f'{{"{name}":{value},"model":"{NAME}"}}'.encode()


#: what ordinary clients send, for which nothing may be refused
ORDINARY = (
    Sent(b'{"model":"m"}'),
    Sent(b'{"model": "m", "messages": [{"role": "user", "content": "\\"model\\": \\"n\\""}]}'),
    Sent(b'{"messages":[{"Model":"n","model":"n"}],"tools":[{"function":{"parameters":{"Model":{}}}}],"model":"m"}'),
    Sent(
        b'{"model":"m","metadata":{"MODEL":"n"},"user":"model","stream":false,"temperature":-0.5e-1,'
        b'"seed":18446744073709551615}'
    ),
    Sent('{"model":"m","messages":[{"content":"模型 é 😀"}]}'.encode()),
    Sent(b'{"model":"m","messages":[{"content":"\\u00e9 \\ud83d\\ude00 \\ud800"}]}'),
    Sent(b' \r\n{\t"model" : "\\u006d" }\n'),
    Sent(b'{"model":"m","models":[],"fallbacks":null,"draft_model":"m"}'),
    Sent(b'{"model":"m"}', b"?beta=true&api-version=2024-01-01"),
    Sent(b'{"model":"m"}', fields=[]),
    Sent(b'{"model":"m"}', fields=[(b"content-type", b'application/json; charset="UTF-8"')]),
    Sent(b'{"model":"m"}', fields=[(b"content-type", b"text/plain")]),
    Sent(b'{"model":"m","prompt":[' + b"1234," * 100000 + b"1]}"),
    Sent(
        _form(
            b'Content-Disposition: form-data; name="file"; filename="a;b.wav"\r\n'
            b"Content-Type: audio/wav\r\n\r\n\0\n--x\r\n-",
            b'Content-Disposition: form-data; name="model"\r\n\r\nm',
            b'Content-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword',
        ),
        fields=[(b"content-type", b'Multipart/Form-Data; boundary="x1"')],
    ),
)

"""What the entries of each format mean."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from hierarchy.simulation.prompt import BYTES_PER_TOKEN, Prompt
from hierarchy.simulation.traces.lines import Entry, csv_entries, json_array, json_lines

MOONCAKE_BLOCK: Final = 512  # tokens that one of `hash_ids` stands for
DEFAULT_OUTPUT: Final = 200  # tokens, where a trace does not tell
ASKING, ANSWERING = ("human", "user", "system", "tool"), ("gpt", "assistant", "chatgpt", "bing", "bard")


class Recorded(NamedTuple):
    """One or more requests of a trace, of which each follows the one before it."""

    #: seconds, from whenever the trace counts; None if it has no times
    at_s: float | None
    #: what is sent, tokens of the response, and the prompt with the response
    requests: tuple[tuple[Prompt, int, Prompt], ...]


def mooncake(file: Path) -> Iterator[Recorded]:
    """Mooncake's traces: each of `hash_ids` stands for a block and all before it."""
    for entry in json_lines(file):
        tokens = entry.tokens("input_length", 1)
        ids = entry.value.get("hash_ids")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise entry.place.error('"hash_ids" is not a list of whole numbers')
        if not (len(ids) - 1) * MOONCAKE_BLOCK < tokens <= len(ids) * MOONCAKE_BLOCK:
            raise entry.place.error(
                f'"input_length" is {tokens}, but "hash_ids" has {len(ids)} blocks of {MOONCAKE_BLOCK} tokens'
            )
        ends = tuple([min(tokens, (number + 1) * MOONCAKE_BLOCK) for number in range(len(ids))])
        prompt = Prompt(tuple(ids), ends, tuple(ids))
        yield Recorded(entry.number("timestamp") / 1000, ((prompt, entry.tokens("output_length"), prompt),))


def azure(file: Path) -> Iterator[Recorded]:
    """Azure's traces: lengths alone, so no two prompts share anything."""
    for number, entry in enumerate(csv_entries(file)):
        prompt = Prompt().then(number + 1, entry.tokens("ContextTokens", 1))
        yield Recorded(_moment(entry, "TIMESTAMP"), ((prompt, entry.tokens("GeneratedTokens"), prompt),))


def burstgpt(file: Path) -> Iterator[Recorded]:
    """BurstGPT's traces: lengths alone, too; entries without a response are requests that failed."""
    for number, entry in enumerate(csv_entries(file)):
        output = entry.tokens("Response tokens")
        if output:
            prompt = Prompt().then(number + 1, entry.tokens("Request tokens", 1))
            yield Recorded(entry.number("Timestamp"), ((prompt, output, prompt),))


def sharegpt(file: Path, *, is_array: bool) -> Iterator[Recorded]:
    """Conversations with their texts, without times."""
    for entry in json_array(file) if is_array else json_lines(file):
        messages = entry.value.get("conversations", entry.value.get("messages")) if _is_object(entry) else None
        if not isinstance(messages, list):
            raise entry.place.error('has no list "conversations"')
        requests = tuple(_requests(entry, messages))
        if requests:
            yield Recorded(None, requests)


def prompts(file: Path) -> Iterator[Recorded]:
    """One prompt a line, without times."""
    for entry in json_lines(file):
        text = entry.value.get("prompt") if _is_object(entry) else None
        if not isinstance(text, str):
            raise entry.place.error('has no text "prompt"')
        output = entry.tokens("output_tokens") if entry.value.get("output_tokens") is not None else DEFAULT_OUTPUT
        prompt = _then(Prompt(), text)
        yield Recorded(None, ((prompt, output, prompt),))


def _is_object(entry: Entry) -> bool:
    return isinstance(entry.value, dict)


def _requests(entry: Entry, messages: list[Any]) -> Iterator[tuple[Prompt, int, Prompt]]:
    """A request for each answer; what comes before it is its prompt."""
    prompt = Prompt()
    for message in messages:
        who, text = _message(entry, message)
        if who in ANSWERING and prompt.tokens:
            continued = _then(prompt, text)
            yield prompt, continued.tokens - prompt.tokens, continued
            prompt = continued
        else:
            prompt = _then(prompt, text)


def _message(entry: Entry, message: Any) -> tuple[str, str]:
    if isinstance(message, dict):
        who = message.get("from", message.get("role"))
        text = message.get("value", message.get("content"))
        if isinstance(who, str) and isinstance(text, str):
            if who in ASKING or who in ANSWERING:
                return who, text
            raise entry.place.error(f'a message is from "{who:.40}"; expected one of {", ".join(ASKING + ANSWERING)}')
    raise entry.place.error('a message has no texts "from" and "value" (or "role" and "content")')


def _then(prompt: Prompt, text: str) -> Prompt:
    data = text.encode("utf-8", "surrogatepass")
    seed = int.from_bytes(blake2b(data, digest_size=7).digest(), "big")
    return prompt.then(seed, max(1, round(len(data) / BYTES_PER_TOKEN)))


def _moment(entry: Entry, field: str) -> float:
    """Seconds, from a date or a number."""
    text = entry.value.get(field) or ""
    try:
        return datetime.fromisoformat(_short(text)).timestamp()
    except ValueError:
        return entry.number(field)


def _short(text: str) -> str:
    """With microseconds: Azure's dates have seven digits."""
    head, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{head}{dot}{digits[:6]}{rest[len(digits) :]}" if dot else text

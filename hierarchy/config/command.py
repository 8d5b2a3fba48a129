"""The command that starts an engine, as a pydantic type. It is run as it is, without a shell."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

HINT = "write a list of words, such as [vllm, serve, NAME, --port, 8000]"


def parse_command(value: object) -> tuple[str, ...]:
    """A list of words; whole numbers are words, too.

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
    """
    if isinstance(value, str):
        raise ValueError("is one text, and no shell would split it", HINT)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r:.60} is not a command", HINT)
    if not value:
        raise ValueError("an empty list: there is nothing to run", HINT)
    return tuple(_word(word) for word in value)


def _word(word: object) -> str:
    if isinstance(word, int) and not isinstance(word, bool):
        return str(word)
    if not isinstance(word, str) or not word or "\0" in word:
        raise ValueError(f"{word!r:.60} is not a word of a command", "write text, in quotes if it is a number or empty")
    return word


_WORD = {"type": ["string", "integer"], "minLength": 1}
Command = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_command),
    WithJsonSchema({"type": "array", "items": _WORD, "minItems": 1}),
]

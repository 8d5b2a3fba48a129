"""Models' names in the configuration: an engine's `models:` and the tree's `aliases:`, as pydantic types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hierarchy.names import MAX_NAME, is_printable_name


def parse_models(value: object) -> dict[str, str]:
    """`models:` of an engine, a list of names or a mapping from served names to the engine's, as such a mapping.

    Raises:
        ValueError: with two arguments, what is wrong and how to mend it.
    """
    match value:
        case []:
            raise ValueError(
                "an empty list: the engine would serve nothing", "leave `models` out to serve all it lists"
            )
        case list():
            pairs = [(name, name) for name in value]
        case dict():
            pairs = list(value.items())
        case _:
            raise ValueError(
                f"{value!r:.60} is no list of models", "write [model, ...] or {served-name: engine's-name}"
            )
    for name in (name for pair in pairs for name in pair):
        if not isinstance(name, str) or not is_printable_name(name):
            mend = f"write text of at most {MAX_NAME} printable characters, in quotes"
            raise ValueError(f"{name!r:.60} is no name of a model", mend)
    return dict(pairs)


_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
Models = Annotated[
    dict[str, str],
    BeforeValidator(parse_models),
    WithJsonSchema(
        {"anyOf": [{"type": "array", "items": _TEXT, "minItems": 1}, {"type": "object", "additionalProperties": _TEXT}]}
    ),
]


def renames(models: Mapping[str, str]) -> dict[str, str]:
    """Of `models`, the names that differ from the engine's: what has to be carried into bodies."""
    return {name: own for name, own in models.items() if name != own}


MAX_WEIGHT = 100.0  # percent


class Target(BaseModel):
    """One model that an alias stands for. weight: percent of the requests that try it first; None: of what is left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, max_length=MAX_NAME)
    weight: float | None = None


def parse_targets(value: object) -> tuple[Target, ...]:
    """The targets of one alias: models' names, or `{model, weight}`.

    Raises:
        ValueError: with two arguments, what is wrong and how to mend it.
    """
    if isinstance(value, tuple) and all(isinstance(entry, Target) for entry in value):
        return value  # made in code, not read from a file
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise ValueError("an empty list: it stands for nothing", "name a model")
    targets = tuple(_parse_target(entry) for entry in entries)
    names = [target.model for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"names {twice!r} twice", "remove one of them")
    _check_weights(targets)
    return targets


def _parse_target(entry: object) -> Target:
    match entry:
        case str():
            name, weight = entry, None
        case {"model": str(name), **rest} if set(rest) <= {"weight"}:
            weight = rest.get("weight")
        case _:
            raise ValueError(f"{entry!r:.60} is no model", "write a model's name, or {model: NAME, weight: PERCENT}")
    if not is_printable_name(name):
        raise ValueError(f"{name!r:.60} is no name of a model", f"write at most {MAX_NAME} printable characters")
    if weight is None:
        return Target(model=name)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(f"weight {weight!r:.60} of {name} is no percentage", "write a number from 0 to 100")
    return Target(model=name, weight=float(weight))


def _check_weights(targets: Sequence[Target]) -> None:
    given = [target.weight for target in targets if target.weight is not None]
    total = sum(given)
    if total > MAX_WEIGHT:
        raise ValueError(f"its weights add up to {total:g} percent", "lower them to 100 in all")
    if len(given) == len(targets) and total != MAX_WEIGHT:
        mend = "leave out one of them, whose model then gets what is left, or make it 100"
        raise ValueError(f"its weights add up to {total:g} percent, not 100", mend)


_TARGET_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        {
            "type": "object",
            "properties": {
                "model": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
                "weight": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": MAX_WEIGHT,
                    "description": "percent of the requests that try it first; the first without gets what is left",
                },
            },
            "required": ["model"],
            "additionalProperties": False,
        },
    ]
}
Targets = Annotated[
    tuple[Target, ...],
    BeforeValidator(parse_targets),
    WithJsonSchema({"anyOf": [{"type": "array", "items": _TARGET_SCHEMA, "minItems": 1}, *_TARGET_SCHEMA["anyOf"]]}),
]

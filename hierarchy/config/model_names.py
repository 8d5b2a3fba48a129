"""Names of models in the configuration, as pydantic types: `models` of an engine and `aliases` of the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from hierarchy.names import MAX_NAME, is_printable_name


def parse_models(value: object) -> dict[str, str]:
    """`models` of an engine as {served name: the engine's name}; a list of names becomes such a mapping.

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
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
                f"{value!r:.60} is not a list of models", "write [model, ...] or {served-name: engine's-name}"
            )
    for name in (name for pair in pairs for name in pair):
        if not isinstance(name, str) or not is_printable_name(name):
            hint = f"write text of at most {MAX_NAME} printable characters, in quotes"
            raise ValueError(f"{name!r:.60} is not the name of a model", hint)
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
    """The models that are served under another name than the engine's, which requests must be rewritten to."""
    return {name: own for name, own in models.items() if name != own}


MAX_WEIGHT = 100.0  # percent


class Target(BaseModel):
    """One model that an alias stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, max_length=MAX_NAME)
    #: percent of the requests that try it first; None: of the rest, if it is the first without a weight
    weight: float | None = None


def parse_targets(value: object) -> tuple[Target, ...]:
    """The targets of one alias: names of models, or `{model, weight}`.

    Raises:
        ValueError: with two arguments, what is wrong and a hint.
    """
    if isinstance(value, tuple) and all(isinstance(entry, Target) for entry in value):
        return value  # made in code, not read from a file
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise ValueError("an empty list: the alias stands for no model", "name a model")
    targets = tuple(_parse_target(entry) for entry in entries)
    names = [target.model for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"contains {twice!r} twice", "remove one of them")
    _check_weights(targets)
    return targets


def _parse_target(entry: object) -> Target:
    match entry:
        case str():
            name, weight = entry, None
        case {"model": str(name), **rest} if set(rest) <= {"weight"}:
            weight = rest.get("weight")
        case _:
            raise ValueError(f"{entry!r:.60} is not a model", "write a model's name, or {model: NAME, weight: PERCENT}")
    if not is_printable_name(name):
        raise ValueError(f"{name!r:.60} is not the name of a model", f"write at most {MAX_NAME} printable characters")
    if weight is None:
        return Target(model=name)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(f"weight {weight!r:.60} of {name} is not a percentage", "write a number from 0 to 100")
    return Target(model=name, weight=float(weight))


def _check_weights(targets: Sequence[Target]) -> None:
    given = [target.weight for target in targets if target.weight is not None]
    total = sum(given)
    if total > MAX_WEIGHT:
        raise ValueError(f"its weights add up to {total:g} percent", "lower them to 100 in total")
    if len(given) == len(targets) and total != MAX_WEIGHT:
        hint = "remove the weight of one model, which then gets the rest, or make them 100 in total"
        raise ValueError(f"its weights add up to {total:g} percent, not 100", hint)


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
                    "description": "percent of the requests that try it first; the first without one gets the rest",
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

"""The format of the YAML as a JSON Schema, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from hierarchy.config.models import TreeConfig

DIALECT = GenerateJsonSchema.schema_dialect


def json_schema() -> dict[str, Any]:
    """Of a whole tree's file. As in the format itself, a field with nothing behind it has its default."""
    schema = TreeConfig.model_json_schema()
    for model in schema["$defs"].values():
        _allow_nothing(model)
        if not model.get("required"):
            model["type"] = ["object", "null"]
    _allow_nothing(schema)
    return {"$schema": DIALECT, **schema, "title": "A tree of hierarchy nodes"}


def _allow_nothing(model: dict[str, Any]) -> None:
    """Let the optional fields of one object be null. Where only a type says no to it, the type says yes; a choice of
    null beside the rest would keep an editor from telling where in the rest a mistake is."""
    required = model.get("required", ())
    for name, field in model.get("properties", {}).items():
        field.pop("title", None)
        if name in required:
            continue
        if isinstance(field.get("type"), str):
            field["type"] = [field["type"], "null"]
            if "enum" in field:
                field["enum"] = [*field["enum"], None]
        elif "anyOf" in field and {"type": "null"} not in field["anyOf"]:
            field["anyOf"] = [*field["anyOf"], {"type": "null"}]

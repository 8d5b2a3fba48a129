"""The format of the YAML as a JSON Schema, for editors that complete and check a file while it is written."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from hierarchy.config.models import TreeConfig

DIALECT = GenerateJsonSchema.schema_dialect


def json_schema() -> dict[str, Any]:
    """The schema of a whole file. An empty value means the default, so it is allowed wherever there is one."""
    schema = TreeConfig.model_json_schema()
    for model in schema["$defs"].values():
        _allow_null(model)
        if not model.get("required"):
            model["type"] = ["object", "null"]
    _allow_null(schema)
    return {"$schema": DIALECT, **schema, "title": "A tree of hierarchy nodes"}


def _allow_null(model: dict[str, Any]) -> None:
    """Let the optional fields of one object be null.

    A field with a type gets null as a second type. A choice between null and the whole field would be shorter, but then
    an editor could not show where in the field a mistake is.
    """
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

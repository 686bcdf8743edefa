"""Request validation by the schemas that ship inside the ClearML SDK.

schemas.json is extracted from the SDK by tests/unit/lite/extract_schemas.py.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import fastjsonschema

from clearml_lite.errors import ApiError, validation_error

Schema = dict[str, Any]


def _require_access_key(schema: Schema) -> None:
    schema["required"] = ["access_key"]


def _allow_fractional_machine_stats(schema: Schema) -> None:
    for stat in schema["definitions"]["machine_stats"]["properties"].values():
        if "integer" in stat["type"]:
            stat["type"] = ["number", "null"]


# Where the schemas of the SDK contradict what the real clients send (recorded), the clients are right.
_CORRECTIONS: dict[str, Callable[[Schema], None]] = {
    "auth.revoke_credentials": _require_access_key,
    "workers.status_report": _allow_fractional_machine_stats,
}


@cache
def _sdk_schemas() -> dict[str, dict[str, Schema]]:
    return json.loads(resources.files("clearml_lite").joinpath("schemas.json").read_text())  # type: ignore[no-any-return]


@cache
def request_schema(name: str) -> Schema:
    """The schema of an endpoint's request; unknown fields are allowed, as the official server allows them."""
    schema = json.loads(json.dumps(_sdk_schemas()[name]["request"]))
    schema.pop("additionalProperties", None)
    if correct := _CORRECTIONS.get(name):
        correct(schema)
    return schema  # type: ignore[no-any-return]


class Validator:
    """Checks requests against one schema; compiled when first used, so that starting stays fast."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.properties: Mapping[str, Schema] = schema.get("properties", {})
        self._check: Callable[[Any], Any] | None = None

    def check(self, parameters: Any) -> None:
        """Raises ApiError 400/12 when the request does not fit."""
        if self._check is None:
            self._check = fastjsonschema.compile(self.schema, use_default=False)
        try:
            self._check(parameters)
        except fastjsonschema.JsonSchemaValueException as error:
            raise _explained(error) from error

    def from_text(self, name: str, values: list[str]) -> Any:
        """A parameter that came as text (query argument or form field), in its schema's type."""
        types = self.properties.get(name, {}).get("type", "string")
        kinds = types if isinstance(types, list) else [types]
        text = values[-1]
        if "array" in kinds:
            return values
        if "boolean" in kinds and text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        if ("integer" in kinds or "number" in kinds) and re.fullmatch(r"-?\d+", text):
            return int(text)
        if "number" in kinds and re.fullmatch(r"-?\d+\.\d+", text):
            return float(text)
        if "object" in kinds:
            try:
                return json.loads(text)
            except ValueError as error:
                raise validation_error(name, "must be JSON") from error
        return text


def _explained(error: fastjsonschema.JsonSchemaValueException) -> ApiError:
    path = ".".join(str(part) for part in error.path[1:])
    if error.rule == "required":
        missing = next(key for key in error.rule_definition if key not in error.value)
        return validation_error(".".join(filter(None, (path, missing))), "field is required!")
    return validation_error(path, str(error.message).removeprefix(str(error.name)).strip() + "!")

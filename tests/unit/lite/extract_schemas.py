"""Extracts the request and response schemas that ship inside the ClearML SDK into clearml_lite/schemas.json.

Run it with an interpreter that has the pinned SDK: `python tests/unit/lite/extract_schemas.py`.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from clearml.backend_api import services
from clearml.backend_api.session import Request

TARGET = Path(__file__).parents[3] / "clearml_lite" / "schemas.json"
SERVICES = ("auth", "events", "models", "organization", "pipelines", "projects", "queues", "tasks", "workers")


def without_descriptions(schema: Any, inside_properties: bool = False) -> Any:
    """The schema without its prose; a property that is called `description` stays."""
    if isinstance(schema, dict):
        return {
            key: without_descriptions(value, key in ("properties", "definitions") and not inside_properties)
            for key, value in schema.items()
            if inside_properties or key != "description"
        }
    if isinstance(schema, list):
        return [without_descriptions(item) for item in schema]
    return schema


def extract() -> dict[str, dict[str, Any]]:
    """Endpoint name -> {"request": schema, "response": schema}; the newest API level that has an endpoint wins."""
    endpoints: dict[str, dict[str, Any]] = {}
    folder = Path(services.__file__).parent
    levels = sorted((path.name for path in folder.glob("v2_*")), key=lambda name: int(name.removeprefix("v2_")))
    for level in levels:
        for service in SERVICES:
            if not (folder / level / f"{service}.py").exists():
                continue
            module = importlib.import_module(f"clearml.backend_api.services.{level}.{service}")
            for name, request in inspect.getmembers(module, inspect.isclass):
                if not issubclass(request, Request) or request.__module__ != module.__name__:
                    continue
                response = getattr(module, name.removesuffix("Request") + "Response")
                endpoints[f"{service}.{request._action}"] = {
                    "request": without_descriptions(getattr(request, "_schema", None) or {"type": "object"}),
                    "response": without_descriptions(getattr(response, "_schema", None) or {"type": "object"}),
                }
    return endpoints


def render(endpoints: dict[str, dict[str, Any]]) -> str:
    """One endpoint a line, so that a diff names what changed."""
    lines = (
        f"{json.dumps(name)}:{json.dumps(endpoints[name], separators=(',', ':'), sort_keys=True)}"
        for name in sorted(endpoints)
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    TARGET.write_text(render(extract()))

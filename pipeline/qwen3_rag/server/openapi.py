"""The interface as an OpenAPI document."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

__all__ = ["described"]

REFERENCE = "#/components/schemas/{model}"
ERROR = {
    "type": "object",
    "description": "TEI's routes have a text under `error`, the others an object with `message`.",
    "properties": {"error": {}, "message": {"type": "string"}, "detail": {"type": "string"}},
    "required": ["error"],
}
HEADERS = ("X-Request-ID", "X-Degraded", "X-Truncated")
TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds from the request's arrival after which it stops.",
    "schema": {"type": "number"},
}
RANGES = {"line": "First line, from 1.", "lines": "Number of lines.", "start": "First character.",
          "end": "Character after the last.", "page": "Page, from 1."}  # fmt: skip
QUERIES: dict[tuple[str, str], dict[str, str]] = {
    ("GET", "/documents"): {"prefix": "Beginning of the ids.", "limit": "Most documents, at most 1000."},
    ("GET", "/documents/{id}"): RANGES,
}


class Described(Protocol):
    """What is needed of an endpoint."""

    @property
    def method(self) -> str:
        """HTTP method."""

    @property
    def path(self) -> str:
        """Path."""

    @property
    def run(self) -> Any:
        """What answers it; its docstring is the description."""

    @property
    def body(self) -> type[BaseModel] | None:
        """Kind of the body."""


def described(endpoints: Iterable[Described], with_keys: bool) -> dict[str, Any]:
    """The document.

    Args:
        endpoints: The routes.
        with_keys: Whether callers must present a key.
    """
    endpoints = list(endpoints)
    bodies = list(dict.fromkeys(each.body for each in endpoints if each.body is not None))
    _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        path = each.path.replace(":rest", "")
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, path)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "qwen3-rag", "version": version("qwen3-rag")},
        "paths": paths,
        "components": {"schemas": {**definitions.get("$defs", {}), "Error": ERROR}},
    }
    if with_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(endpoint: Described, path: str) -> dict[str, Any]:
    text = " ".join((endpoint.run.__doc__ or "").split())
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace(".", "_") or "root"
    problem = {"description": "Refused or failed.", "content": {"application/json": {"schema": _ref("Error")}}}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{name}",
        "summary": text.partition(".")[0].partition(";")[0],
        "description": text,
        "responses": {"200": {"description": "Done.", "content": {"application/json": {}}}, "default": problem},
    }
    if path == "/metrics":
        operation["responses"]["200"]["content"] = {"text/plain": {}}
    if path == "/health":
        operation["security"] = []
    if endpoint.body is not None:
        schema = _ref(endpoint.body.__name__)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["responses"]["200"]["headers"] = {name: {"schema": {"type": "string"}} for name in HEADERS}
    parameters: list[dict[str, Any]] = [TIMEOUT] if endpoint.body is not None else []
    for part, text in QUERIES.get((endpoint.method, path), {}).items():
        kind = "string" if part == "prefix" else "integer"
        parameters.append({"name": part, "in": "query", "description": text, "schema": {"type": kind}})
    if "{id}" in path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    return operation


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=name)}

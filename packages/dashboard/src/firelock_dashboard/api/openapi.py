"""The API as OpenAPI 3.1, made from the table of its routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from firelock_dashboard.routes import ApiParameter, Route
from firelock_dashboard.security.permissions import Permission

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.request import Visit

__all__ = ["routes"]

_FORM = "application/x-www-form-urlencoded"
_ERRORS = {
    "400": "A value of the request is wrong; the message names it.",
    "403": "The visitor may not, or an unsafe request has no evidence of its origin.",
    "404": "There is no such thing.",
    "503": "The storage does not answer; try again.",
}


def routes(described: Sequence[Route]) -> tuple[Route, ...]:
    """Return the route of the description of these routes."""

    def show(visit: Visit) -> Response:
        wanted = [route for route in described if not (visit.dashboard.is_read_only and route.is_action)]
        return visit.json(_document(wanted, visit.url.root, visit.dashboard.version))

    summary = "This description."
    return (Route("GET", "/api/openapi.json", Permission.READ, show, is_api=True, summary=summary),)


def _document(described: Sequence[Route], root: str, version: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Firelock dashboard",
            "version": version,
            "description": "Everything that the dashboard shows and does. An unsafe request needs a bearer "
            "token, or to come from the dashboard's own pages.",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": {
                "Problem": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                }
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    places = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{([a-z_]+)", route.path)
    ]
    told: dict[str, Any] = {
        "operationId": _name(route),
        "summary": route.summary,
        "x-permission": str(route.permission),
        "parameters": places,
        "responses": {
            "2XX": {"description": "Done.", "content": {"application/json": {"schema": {"type": "object"}}}},
            **{status: _problem(words) for status, words in _ERRORS.items()},
        },
    }
    if route.is_action:
        schema = {
            "type": "object",
            "properties": {one.name: _schema(one) for one in route.parameters},
            "required": [one.name for one in route.parameters if one.is_required],
        }
        content = {kind: {"schema": schema} for kind in (_FORM, "application/json")}
        told["requestBody"] = {"required": bool(schema["required"]), "content": content}
    else:
        told["parameters"] = [*places, *(_query(one) for one in route.parameters)]
    return told


def _name(route: Route) -> str:
    words = re.findall(r"[a-z]+", route.path.removeprefix("/api"))
    return "_".join([route.method.lower(), *words])


def _schema(parameter: ApiParameter) -> dict[str, Any]:
    told: dict[str, Any] = {"description": parameter.doc}
    if parameter.kind == "array":
        return told | {"type": "array", "items": {"type": "string"}}
    if parameter.kind == "date-time":
        return told | {"type": "string", "format": "date-time"}
    if parameter.choices:
        told["enum"] = list(parameter.choices)
    return told | {"type": parameter.kind}


def _query(parameter: ApiParameter) -> dict[str, Any]:
    schema = _schema(parameter)
    doc = schema.pop("description")
    return {
        "name": parameter.name, "in": "query", "description": doc, "required": parameter.is_required,
        "schema": schema,
    }  # fmt: skip


def _problem(words: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": words, "content": content}

"""The OpenAPI 3.1 description of the API, created from its table of routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Field
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit

_FORM = "application/x-www-form-urlencoded"
_ERRORS = {
    "400": "A value of the request is invalid; the message names the field.",
    "403": "The visitor lacks the permission, or a POST does not prove its origin.",
    "404": "The requested object does not exist.",
    "503": "The storage is unreachable; send the request again later.",
}


def routes(described: Sequence[Route]) -> tuple[Route, ...]:
    """Return the route that serves the description of these routes."""

    def show(visit: Visit) -> Response:
        wanted = [route for route in described if not (visit.dashboard.is_read_only and route.is_action)]
        return visit.json(_document(wanted, visit.url.root, visit.dashboard.version))

    summary = "Return this description."
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
            "description": "Programs can read and change everything that the dashboard's pages can. A POST "
            "must have a bearer token, or come from the dashboard's own pages.",
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
    described: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"[a-z]+", route.path[len("/api") :])]),
        "summary": route.summary,
        "x-permission": str(route.permission),
        "parameters": places,
        "responses": {
            "2XX": {"description": "Done.", "content": {"application/json": {"schema": {"type": "object"}}}},
            **{status: _problem(words) for status, words in _ERRORS.items()},
        },
    }
    if route.is_action:
        required = [one.name for one in route.parameters if one.is_required]
        properties = {one.name: {"description": one.doc, **_schema(one)} for one in route.parameters}
        schema = {"type": "object", "properties": properties, "required": required}
        content = {kind: {"schema": schema} for kind in (_FORM, "application/json")}
        described["requestBody"] = {"required": bool(required), "content": content}
    else:
        described["parameters"] = places + [
            {
                "name": one.name, "in": "query", "description": one.doc, "required": one.is_required,
                "schema": _schema(one),
            }
            for one in route.parameters
        ]  # fmt: skip
    return described


def _schema(field: Field[Any]) -> dict[str, Any]:
    return field.schema() | ({} if field.default in (None, "") else {"default": field.default})


def _problem(words: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": words, "content": content}

"""The path that routes match, and the dialect that answers a request."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path below the root path, without the trailing slash; `/` stays."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return path.removesuffix("/") or "/"


def as_routed(scope: Scope) -> dict[str, Any]:
    """A copy of the scope as the routes know it: HEAD is GET, and a trailing slash is dropped.

    Routes declare neither, and a redirect would lose the body of a POST in some clients. uvicorn
    keeps the client's scope, so that it sends the headers of a HEAD request only.
    """
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "method": method, "path": scope.get("root_path", "") + route_path(scope)}


def answer_as(scope: Scope, path: str) -> None:
    """Answer the request, its errors too, as if it had been sent to this route path."""
    scope["mmes.path"] = path


def answer_path(scope: Scope) -> str:
    """The route path that decides the dialect of the response."""
    path: str = scope.get("mmes.path") or route_path(scope)
    return path

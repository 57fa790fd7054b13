"""The API page at `/docs`: Swagger UI, shipped as files, over this server's OpenAPI document.

No route here needs a key: the page asks for one ("Authorize"), and describes nothing that differs
between servers. `docs/swagger-ui*` are unchanged files of npm's swagger-ui-dist 5.35.0.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from multimodal_embedding_serving.api.playground import HEADERS, POLICY
from multimodal_embedding_serving.errors import NotFound

FILES = Path(__file__).parent / "docs"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

DOCS_POLICY = {
    name: value for name, value in POLICY.items() if name != "require-trusted-types-for"
} | {"style-src": "'self' 'unsafe-inline'"}
"""Swagger UI sets the style attribute of elements, and renders descriptions as markup."""
DOCS_HEADERS = HEADERS | {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in DOCS_POLICY.items())
}


def docs_routes() -> APIRouter:
    """`/docs` and the files under it."""
    routes = APIRouter(include_in_schema=False)
    page = (FILES / "index.html").read_bytes()
    files = {path.name: path for path in FILES.iterdir() if path.suffix in TYPES}

    @routes.get("/docs")
    async def index(request: Request) -> Response:
        # A browser resolves links against the path it asked for: /docs or, equally right, /docs/.
        asked: bytes = request.scope["raw_path"]
        body = page if asked.endswith(b"/") else page.replace(b'"./', b'"docs/')
        return Response(body, headers=DOCS_HEADERS, media_type="text/html; charset=utf-8")

    @routes.get("/docs/{name}")
    async def file(name: str) -> Response:
        path = files.get(name)
        if path is None:
            raise NotFound("no such file of the API page")
        return FileResponse(path, headers=DOCS_HEADERS, media_type=TYPES[path.suffix])

    return routes

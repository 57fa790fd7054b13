"""The playground: a static page at `/`, its files, and the samples that it offers to try.

None of these routes needs a key: the page asks for one when the API does.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.errors import NotFound

FILES = Path(__file__).parent / "playground"
SAMPLES = Path(__file__).parent.parent / "builtin" / "samples"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".md": "text/plain; charset=utf-8",
}
MEDIA = {".jpg", ".mp4"}

POLICY = {
    "default-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
"""No inline script or style, nothing from elsewhere, no page around this one."""

HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}

READ = ["GET", "HEAD"]


def playground_routes() -> APIRouter:
    """`/` and everything below `/playground/`. Only files that are there now can be had."""
    routes = APIRouter(include_in_schema=False)
    page, samples = _files(FILES), _files(SAMPLES)
    media = sorted(name for name, path in samples.items() if path.suffix in MEDIA)

    @routes.api_route("/", methods=READ)
    async def index() -> Response:
        return _answer(page, "index.html")

    @routes.api_route("/playground/samples.json", methods=READ)
    async def sample_names() -> Response:
        return json_response({"samples": media}, headers=HEADERS)

    @routes.api_route("/playground/samples/{name}", methods=READ)
    async def sample(name: str) -> Response:
        return _answer(samples, name)

    @routes.api_route("/playground/{name}", methods=READ)
    async def file(name: str) -> Response:
        return _answer(page, name)

    return routes


def _files(folder: Path) -> dict[str, Path]:
    """Name -> path, for the files of known types in a folder; empty where there is no folder."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in TYPES}


def _answer(known: dict[str, Path], name: str) -> Response:
    """A file by its name: never by a path that a client makes up."""
    path = known.get(name)
    if path is None:
        raise NotFound("the playground has no such file")
    return FileResponse(path, headers=HEADERS, media_type=TYPES[path.suffix])

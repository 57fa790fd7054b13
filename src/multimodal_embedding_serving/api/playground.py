"""The playground: a static page at `/`, its files, and the sample images and video it offers.

None of these routes needs a key: the page asks for one when the API requires it.
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
"""No inline scripts or styles, nothing from other hosts, no embedding in other pages."""

HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def playground_routes() -> APIRouter:
    """`/` and everything under `/playground/`. Only files present at startup are served."""
    routes = APIRouter(include_in_schema=False)
    page, samples = _files(FILES), _files(SAMPLES)
    media = sorted(name for name, path in samples.items() if path.suffix in MEDIA)

    @routes.get("/")
    async def index() -> Response:
        return _file_response(page, "index.html")

    @routes.get("/playground/samples.json")
    async def sample_names() -> Response:
        return json_response({"samples": media}, headers=HEADERS)

    @routes.get("/playground/samples/{name}")
    async def sample(name: str) -> Response:
        return _file_response(samples, name)

    @routes.get("/playground/{name}")
    async def file(name: str) -> Response:
        return _file_response(page, name)

    return routes


def _files(folder: Path) -> dict[str, Path]:
    """Name -> path of the files of known types in a folder; empty if the folder does not exist."""
    if not folder.is_dir():
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in TYPES}


def _file_response(paths: dict[str, Path], name: str) -> Response:
    """The file with that name; a client never chooses a path."""
    path = paths.get(name)
    if path is None:
        raise NotFound("no such file in the playground")
    return FileResponse(path, headers=HEADERS, media_type=TYPES[path.suffix])

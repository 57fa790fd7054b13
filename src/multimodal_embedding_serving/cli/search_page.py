"""The page of `mmes search --html`: the matches with thumbnails, in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from multimodal_embedding_serving.bulk.search import Match
from multimodal_embedding_serving.cli.reports import clock
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb, image_limits
from multimodal_embedding_serving.settings import Settings

THUMBNAIL_SIDE = 320
QUALITY = 80
STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 1rem; }
ol { display: grid; gap: 1rem; list-style: none; padding: 0;
     grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
img, video { aspect-ratio: 4 / 3; background: #8884; object-fit: contain; width: 100%; }
p { margin: 0; overflow-wrap: anywhere; }
"""


def write_page(file: Path, query: str, matches: Iterable[Match], settings: Settings) -> None:
    """Write the matches, best first. Images are copied into the page; videos are linked, and the
    browser shows the frame of the match. Raises OSError."""
    limits = image_limits(settings)
    title = escape(query)
    items = "\n".join(_item(match, limits) for match in matches)
    file.write_text(
        f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}: mmes search</title>
<style>{STYLE}</style>
<h1>{title}</h1>
<ol>
{items}
</ol>
</html>
""",
        encoding="utf-8",
        errors="xmlcharrefreplace",
    )


def _item(match: Match, limits: ImageLimits) -> str:
    path = Path(match.path)
    name, address = escape(path.name), escape(path.as_uri())
    time = "" if match.timestamp is None else f" at {clock(match.timestamp)}"
    caption = f'<p>{match.similarity:.3f} <a href="{address}">{name}</a>{time}</p>'
    if match.kind == "video":
        moment = f"{address}#t={match.timestamp or 0:.2f}"
        return f'<li><video src="{moment}" preload="metadata" controls muted></video>{caption}</li>'
    if match.kind == "text":
        return f"<li>{caption}</li>"
    return f'<li><a href="{address}">{_thumbnail(path, name, limits)}</a>{caption}</li>'


def _thumbnail(path: Path, name: str, limits: ImageLimits) -> str:
    try:
        image = decode_rgb(path.read_bytes(), limits, min_side=THUMBNAIL_SIDE)
    except (OSError, EmbeddingError):  # it has changed since it was indexed
        return f'<img alt="{name} can no longer be shown">'
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY)
    data = base64.b64encode(encoded.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'

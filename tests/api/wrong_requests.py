"""Wrong requests, as people send them, and the message that each gets. A message says what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.api.test_native import b64
from tests.media_files import write_image

NATIVE, OPENAI, COHERE = "/embeddings", "/v1/embeddings", "/v2/embed"
IMAGE = b64(write_image("png"))
CUT = b64(write_image("jpeg")[:-200])
NOT_MEDIA = b64(b"some text that is no image")
FORM = "--x\r\ncontent-disposition: form-data\r\n\r\na\r\n--x--\r\n"


@dataclass(frozen=True)
class Wrong:
    """A request, and the status and message of its response."""

    path: str
    body: Any
    status: int
    message: str
    """With `…` for what depends on the versions of libraries."""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


def native(**source: Any) -> dict[str, Any]:
    return {"input": source}


def video(**segment: Any) -> dict[str, Any]:
    return native(type="video_base64", video_base64="AAAA", segment_config=segment)


# fmt: off
WRONG = (
    # ── where and how ──
    Wrong("/embeddding", {}, 404, "POST /embeddding: no such route; see /docs for all routes"),
    Wrong("/v1/v1/embeddings", {}, 404, "POST /v1/v1/embeddings: the path has /v1 twice; remove it from the client's base URL"),
    Wrong(OPENAI, None, 405, "GET /v1/embeddings: this route accepts POST only", method="GET"),
    Wrong("/health", {}, 405, "POST /health: this route accepts GET, HEAD only"),
    Wrong(NATIVE, None, 422, 'the request body is empty; send a JSON object such as {"input": …}'),
    Wrong(NATIVE, b"input=a+cat", 422, 'the request body is not valid JSON: …; send a JSON object such as {"input": …}'),
    Wrong(OPENAI, [], 400, 'the request body must be a JSON object; send a JSON object such as {"input": …}'),
    Wrong(COHERE, FORM.encode(), 422, "the request body is not valid JSON: …; forms are accepted by POST /v1/embeddings and /predict only, send JSON here", headers={"content-type": "multipart/form-data; boundary=x"}),
    Wrong(OPENAI, FORM.encode(), 400, 'every part of the form needs a Content-Disposition: form-data; name="…" header', headers={"content-type": "multipart/form-data; boundary=x"}),
    Wrong(OPENAI, FORM.encode(), 400, "the form's Content-Type has no boundary; let the HTTP client set it", headers={"content-type": "multipart/form-data"}),
    Wrong(OPENAI, b"-", 415, "Content-Encoding 'br' is not supported; send the body with gzip once, or uncompressed", headers={"content-encoding": "br"}),
    Wrong(NATIVE, b"-", 415, "Content-Encoding 'gzip, deflate' is not supported; send the body with gzip once, or uncompressed", headers={"content-encoding": "gzip, deflate"}),
    Wrong(NATIVE, b"{}", 422, "the request body is not gzip data, as its Content-Encoding header says; compress it, or leave the header out", headers={"content-encoding": "gzip"}),
    Wrong(NATIVE, gzip.compress(b"{}")[:-9], 422, "the request body is truncated: send its gzip data to the end", headers={"content-encoding": "gzip"}),
    Wrong(NATIVE, gzip.compress(b"{}") * 2, 422, "the request body goes on after its gzip data; send one gzip member", headers={"content-encoding": "gzip"}),
    Wrong(NATIVE, gzip.compress(b" " * (3 << 20)), 413, "the request body is larger than 2 MB decompressed (EMBEDDING_MAX_BODY_MB); send fewer items per request", headers={"content-encoding": "gzip"}),
    Wrong(OPENAI, b" " * (3 << 20), 400, "the request body is larger than 2 MB (EMBEDDING_MAX_BODY_MB); send fewer items per request"),
    # ── the model ──
    Wrong(NATIVE, {"model": "other", **native(type="text", text="a")}, 400, "Model mismatch: requested model 'other' does not match the currently loaded model 'CLIP/clip-vit-b-32'. Send the loaded model's name, or none."),
    Wrong(OPENAI, {"model": "text-embedding-3-small", "input": "a"}, 404, "The model 'text-embedding-3-small' does not exist; this server serves 'CLIP/clip-vit-b-32': send that name, or none"),
    Wrong(OPENAI, {"input": "a", "dimensions": 3}, 400, "dimensions=3 is not allowed for CLIP/clip-vit-b-32; allowed: only 8"),
    # ── native inputs ──
    Wrong(NATIVE, {}, 422, "input: is required"),
    Wrong(NATIVE, {"input": 5}, 422, "input: must be an object, a string or a list"),
    Wrong(NATIVE, native(text="a"), 422, "input: type is required; use one of text, image_url, image_base64, image_file, video_frames, video_url, video_base64, video_file, frames_batch"),
    Wrong(NATIVE, native(type="poem", text="a"), 422, "input: type 'poem' is unknown; use one of text, image_url, image_base64, image_file, video_frames, video_url, video_base64, video_file, frames_batch"),
    Wrong(NATIVE, native(type="text"), 422, "input.text: is required"),
    Wrong(NATIVE, native(type="text", text=[]), 422, "input.text: must have at least 1 item"),
    Wrong(NATIVE, native(type="text", text=["a", None]), 422, "input.text[1]: must be a valid string"),
    Wrong(NATIVE, native(type="image_url", image_url="/data/cat.jpg"), 403, "only http and https URLs are supported"),
    Wrong(NATIVE, native(type="image_url", image_url="http://10.0.0.1/cat.jpg"), 403, "fetching this host is not allowed (see EMBEDDING_MEDIA_ALLOWED_HOSTS)"),
    Wrong(NATIVE, native(type="image_base64", image_base64="s3://bucket/cat.jpg"), 422, "this is a URL (s3:), not base64; send base64 or a data: URI, or an http or https URL where URLs are accepted"),
    Wrong(NATIVE, native(type="image_base64", image_base64="photos/cat.jpg"), 422, "this is a file name, not base64; send base64 or a data: URI, or an http or https URL where URLs are accepted"),
    Wrong(NATIVE, native(type="image_base64", image_base64=[IMAGE, CUT]), 422, "could not decode the image: it is damaged or incomplete; send the whole file"),
    Wrong(NATIVE, native(type="image_base64", image_base64=NOT_MEDIA), 415, "not a supported image format (supported: JPEG, …)"),
    Wrong(NATIVE, native(type="image_base64", image_base64=""), 422, "the image is empty; send the bytes of a file"),
    Wrong(NATIVE, native(type="video_frames", video_frames=[{"image_url": "a"}]), 422, "input.video_frames[0]: type is required; use one of image_url, image_base64"),
    Wrong(NATIVE, native(type="video_file", video_path="/etc/passwd"), 403, "the path is outside EMBEDDING_MEDIA_ROOTS"),
    Wrong(NATIVE, native(type="video_file", video_path="gone.mp4"), 404, "no such file under EMBEDDING_MEDIA_ROOTS"),
    Wrong(NATIVE, video(num_frames=-1), 422, "input.segment_config.num_frames: must be greater than or equal to 0"),
    Wrong(NATIVE, video(fps=0), 422, "input.segment_config.fps: must be greater than 0"),
    Wrong(NATIVE, video(clip_duration=-2), 422, "input.segment_config.clip_duration: must be positive, or -1 for the rest of the video"),
    Wrong(NATIVE, video(pooling="max"), 422, "input.segment_config.pooling: must be 'mean'"),
    # ── OpenAI's ──
    Wrong(OPENAI, {"input": []}, 400, "input must not be empty; send at least one item"),
    Wrong(OPENAI, {"input": ["a", ""]}, 400, "input[1]: must not be empty; leave the item out, or send text or media"),
    Wrong(OPENAI, {"input": [["a cat", "a dog"]]}, 400, "input[0]: must be a string or an object, not a list; send one flat list of items"),
    Wrong(OPENAI, {"input": [[1, 2, 3]]}, 400, "input: token ids are not accepted by default because their tokenizer is unknown; send text. With LangChain's OpenAIEmbeddings, set check_embedding_ctx_length=False. If your clients use this model's own tokenizer, set EMBEDDING_TOKEN_IDS=model on the server."),
    Wrong(OPENAI, {"input": ["a", 1.5]}, 400, "input[1]: must be a string, or an object with text, image or video"),
    Wrong(OPENAI, {"input": {"picture": IMAGE}}, 400, "input[0]: must have exactly one of text, image, video, image_url and video_url"),
    Wrong(OPENAI, {"input": {"image": IMAGE, "text": "a"}}, 400, "input[0]: must have exactly one of text, image, video, image_url and video_url"),
    Wrong(OPENAI, {"input": [{"image": "/data/cat.jpg"}]}, 400, "this is a file path, not base64; send base64 or a data: URI, or an http or https URL where URLs are accepted"),
    Wrong(OPENAI, {"input": [{"image": "//cdn.example/cat.jpg"}]}, 403, "only http and https URLs are supported"),
    Wrong(OPENAI, {"input": [{"image": "file:///data/cat.jpg"}]}, 403, "only http and https URLs are supported"),
    Wrong(OPENAI, {"input": [{"video": "rtsp://camera.example/1"}]}, 403, "only http and https URLs are supported"),
    Wrong(OPENAI, {"input": [{"image": "data:image/png,abcd"}]}, 400, "a data URI must be base64-encoded: data:image/png;base64,..."),
    Wrong(OPENAI, {"input": "data:image/png;base64,iVBORw0KGgoAAAAN!"}, 400, "invalid base64: send the file's bytes as base64 or as a data: URI"),
    Wrong(OPENAI, {"input": "a", "encoding_format": "hex"}, 400, "encoding_format: must be 'float' or 'base64'"),
    Wrong(OPENAI, {"input": "a", "input_type": "search"}, 400, "input_type: must be 'query', 'document' or 'passage'"),
    Wrong(OPENAI, {"input": ["a", "b"], "modality": ["text"] * 3}, 400, "modality must be one of text, image, video, or a list with one per item"),
    Wrong(NATIVE, {"input": ["a", ["b"]]}, 400, "input[1]: must be a string or an object, not a list; send one flat list of items"),
    Wrong(NATIVE, {"input": "x" * 100, "truncate": "NONE"}, 400, "text exceeds the model's maximum length; use truncate=END to truncate it"),
    Wrong(OPENAI, {"input": ["a"] * 9}, 400, "the request has 9 items; the limit is 8 (EMBEDDING_MAX_ITEMS)"),
    # ── Cohere's ──
    Wrong(COHERE, {"input_type": "search_query"}, 422, "exactly one of texts, images and inputs is required, and it must not be empty"),
    Wrong(COHERE, {"texts": ["a"], "images": [IMAGE]}, 422, "exactly one of texts, images and inputs is required, and it must not be empty"),
    Wrong(COHERE, {"texts": "a"}, 422, "texts: must be a valid list"),
    Wrong(COHERE, {"images": ["cat.jpg"]}, 422, "this is a file name, not base64; send base64 or a data: URI, or an http or https URL where URLs are accepted"),
    Wrong(COHERE, {"inputs": [{"content": []}]}, 422, "inputs[0].content: must not be empty"),
    Wrong(COHERE, {"texts": ["a"], "embedding_types": ["float16"]}, 422, "embedding_types[0]: must be 'float', 'base64', 'int8', 'uint8', 'binary' or 'ubinary'"),
    Wrong(COHERE, {"texts": ["a"], "input_type": "query"}, 422, "input_type: must be 'search_query', 'search_document', 'classification', 'clustering' or 'image'"),
)
# fmt: on

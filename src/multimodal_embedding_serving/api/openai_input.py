"""The items of /v1/embeddings: OpenAI's strings, Jina's objects, chat-content parts and NVIDIA's
data URIs, in any mix. Each item becomes an input with one vector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from multimodal_embedding_serving.api.schemas import OpenAIRequest
from multimodal_embedding_serving.errors import BadRequest, InvalidInput, MissingExtra
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits, Role, Texts
from multimodal_embedding_serving.inputs.kinds import (
    ImageBase64Input,
    ImageUrlInput,
    SegmentConfig,
    VideoBase64Input,
    VideoUrlInput,
)
from multimodal_embedding_serving.media.encoded import is_data_uri, media_type_of
from multimodal_embedding_serving.settings import Settings

SCHEME = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+:\S|//[^/]+/)", re.IGNORECASE)
"""What a URL begins with, also one without a scheme. The fetcher rejects all but http and https.
Base64 contains no colon, and no two slashes at the start of media that can be decoded."""

ONE_VECTOR = SegmentConfig(pooling="mean")

ITEM_KINDS = ("text", "image", "video")

JINA_KEYS = {"image": ("bytes", "url")}
"""What LangChain's and LlamaIndex's clients of Jina call an image's base64 and its address."""

JINA_ROLES = ("query", "passage")
"""The endings of Jina's tasks that give the role of a text, as in `retrieval.query`."""

REJECTED_IDS = (
    "input: token ids are not accepted by default because their tokenizer is unknown; send text. "
    "With LangChain's OpenAIEmbeddings, set check_embedding_ctx_length=False. If your clients use "
    "this model's own tokenizer, set EMBEDDING_TOKEN_IDS=model on the server."
)


MAX_INLINE_ITEMS = 256
"""Larger inputs are read on a thread: these take the event loop under a millisecond."""


def read_items(request: OpenAIRequest, settings: Settings) -> list[Embeddable]:
    """The inputs of a request, one vector per item, in order; a list of texts stays one input.

    Raises InvalidInput with the item's index, TooLarge, and BadRequest if token ids are rejected.
    Blocks while token ids are decoded.
    """
    items = _as_list(request.input)
    if not items:
        raise InvalidInput("input must not be empty; send at least one item", param="input")
    InputLimits.of(settings).check(len(items))
    role = read_role(request)
    if _is_token_list(items[0]):
        texts = _from_tokens(items, settings.token_ids)
        return [Texts(texts, role, request.instruction, many=len(texts) > 1)]
    kinds = _kinds(request.modality, len(items))
    if all(map(_is_text, items, kinds)):
        for index, text in enumerate(items):
            _check_not_empty(text, index)
        return [Texts(items, role, request.instruction, many=len(items) > 1)]
    template = Texts((), role, request.instruction, many=False)
    return [
        _read_item(item, kind, index, template)
        for index, (item, kind) in enumerate(zip(items, kinds, strict=True))
    ]


def read_role(request: OpenAIRequest) -> Role | None:
    """Whether the texts are queries or documents, from `input_type` or Jina's `task`."""
    task, _, ending = (request.task or "").rpartition(".")
    role = request.input_type or (ending if task and ending in JINA_ROLES else None)
    return None if role is None else "query" if role == "query" else "document"


def _as_list(value: Any) -> list[Any]:
    """The input as a list of items; a flat list of token ids is one item."""
    if isinstance(value, str | dict):
        return [value]
    if not isinstance(value, list):
        raise InvalidInput("input must be a string, an object or a list", param="input")
    return [value] if value and _is_token(value[0]) else value


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _is_token_list(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and _is_token(item[0])


def _is_text(item: Any, kind: str | None) -> bool:
    if not isinstance(item, str):
        return False
    return kind == "text" or (kind is None and media_type_of(item) is None)


def _check_not_empty(text: str, index: int) -> None:
    if not text:
        message = "must not be empty; leave the item out, or send text or media"
        raise InvalidInput(message, index=index, param="input")


def _kinds(modality: str | Sequence[str] | None, count: int) -> list[str | None]:
    """What a plain string at each position is; None: a text, unless it is a data URI of media."""
    if not modality:
        return [None] * count
    kinds: list[str | None] = [modality] if isinstance(modality, str) else list(modality)
    kinds = kinds * count if len(kinds) == 1 else kinds
    if len(kinds) != count or not set(kinds) <= set(ITEM_KINDS):
        message = f"modality must be one of {', '.join(ITEM_KINDS)}, or a list with one per item"
        raise InvalidInput(message, param="modality")
    return kinds


def _from_tokens(items: list[Any], token_ids: str) -> list[str | tuple[int, ...]]:
    """Texts for lists of token ids, depending on EMBEDDING_TOKEN_IDS."""
    if token_ids == "reject":  # noqa: S105  # a setting's value
        raise BadRequest(REJECTED_IDS, param="input")
    for index, ids in enumerate(items):
        if not (isinstance(ids, list) and ids and all(map(_is_token, ids))):
            message = "token ids must be a non-empty list of integers"
            raise InvalidInput(message, index=index, param="input")
        if not all(0 <= each < 2**31 for each in ids):
            message = "token ids must be between 0 and 2147483647"
            raise InvalidInput(message, index=index, param="input")
    if token_ids == "model":  # noqa: S105  # a setting's value
        return [tuple(ids) for ids in items]
    return list(_decode_cl100k(items))


def _decode_cl100k(items: list[list[int]]) -> list[str]:
    try:
        import tiktoken  # an extra
    except ImportError:
        raise MissingExtra("EMBEDDING_TOKEN_IDS=cl100k", "tiktoken") from None
    encoding = tiktoken.get_encoding("cl100k_base")
    texts = []
    for index, ids in enumerate(items):
        try:
            texts.append(encoding.decode(ids))
        except KeyError:
            message = "a token id is not in the cl100k_base vocabulary"
            raise InvalidInput(message, index=index, param="input") from None
    return texts


def _read_item(item: Any, kind: str | None, index: int, template: Texts) -> Embeddable:
    if isinstance(item, str):
        if kind != "text":
            kind = media_type_of(item) or kind or "text"
        return _make(kind, item, index, template)
    if isinstance(item, list):
        message = "must be a string or an object, not a list; send one flat list of items"
        raise InvalidInput(message, index=index, param="input")
    if not isinstance(item, dict):
        message = "must be a string, or an object with text, image or video"
        raise InvalidInput(message, index=index, param="input")
    kind, value = _kind_and_value(item, index)
    return _make(kind, value, index, template)


def _kind_and_value(item: dict[str, Any], index: int) -> tuple[str, str]:
    """The content of {"image": …} or {"type": "image_url", "image_url": {"url": …}}."""
    fields = [
        (kind, item[key])
        for kind in ITEM_KINDS
        for key in (kind, f"{kind}_url", f"{kind}_base64", *JINA_KEYS.get(kind, ()))
        if item.get(key) is not None
    ]
    if len(fields) != 1:
        message = "must have exactly one of text, image, video, image_url and video_url"
        raise InvalidInput(message, index=index, param="input")
    kind, value = fields[0]
    if isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        raise InvalidInput(f"{kind} must be a string", index=index, param="input")
    return kind, value


def _make(kind: str, value: str, index: int, template: Texts) -> Embeddable:
    _check_not_empty(value, index)
    if kind == "text":
        return Texts([value], template.role, template.instruction, many=False)
    remote = SCHEME.match(value) is not None and not is_data_uri(value)
    if kind == "image" and remote:
        return ImageUrlInput(type="image_url", image_url=value.strip())
    if kind == "image":
        return ImageBase64Input(type="image_base64", image_base64=value)
    if remote:
        return VideoUrlInput(type="video_url", video_url=value.strip(), segment_config=ONE_VECTOR)
    return VideoBase64Input(type="video_base64", video_base64=value, segment_config=ONE_VECTOR)

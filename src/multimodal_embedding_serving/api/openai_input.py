"""The dialects of one embeddings list: OpenAI's strings, Jina's and chat-content objects,
NVIDIA's data URIs, mixed freely. Each item becomes an input that gives one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multimodal_embedding_serving.api.schemas import OpenAIRequest
from multimodal_embedding_serving.errors import BadRequest, InvalidInput, MissingExtra
from multimodal_embedding_serving.inputs.items import Embeddable, Role, Texts, too_many_items
from multimodal_embedding_serving.inputs.kinds import (
    ImageBase64Input,
    ImageUrlInput,
    SegmentConfig,
    VideoBase64Input,
    VideoUrlInput,
)
from multimodal_embedding_serving.settings import Settings

ONE_VECTOR = SegmentConfig(pooling="mean")

KINDS = ("text", "image", "video")

JINA_SIDES = ("query", "passage")
"""How those of Jina's tasks end that say which side of a search a text is on."""

REJECTED = (
    "input holds token ids, and nothing says which tokenizer made them. Send text: with "
    "LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False. (A server whose clients "
    "use its own tokenizer can set EMBEDDING_TOKEN_IDS=model.)"
)


def read_items(request: OpenAIRequest, settings: Settings) -> list[Embeddable]:
    """The inputs of a request, one vector each, in order; a list of texts stays one input.

    Raises InvalidInput naming the item, TooLarge, BadRequest for token ids that are not accepted.
    Blocking where token ids are decoded.
    """
    items = _listed(request.input)
    if not items:
        raise InvalidInput("input is empty", param="input")
    if len(items) > settings.max_items:  # the engine checks all requests; reading takes seconds
        raise too_many_items(len(items), settings.max_items)
    role = read_role(request)
    if isinstance(items[0], list):
        texts = _from_tokens(items, settings.token_ids)
        return [Texts(texts, role, request.instruction, many=len(texts) > 1)]
    kinds = _kinds(request.modality, len(items))
    if all(map(_is_text, items, kinds)):
        for index, text in enumerate(items):
            _check_not_empty(text, index)
        return [Texts(items, role, request.instruction, many=len(items) > 1)]
    texts_like = Texts((), role, request.instruction, many=False)
    return [
        _read_item(item, kind, index, texts_like)
        for index, (item, kind) in enumerate(zip(items, kinds, strict=True))
    ]


def read_role(request: OpenAIRequest) -> Role | None:
    """Whether the texts are queries or documents, by `input_type` or by Jina's `task`."""
    task, _, side = (request.task or "").rpartition(".")
    wanted = request.input_type or (side if task and side in JINA_SIDES else None)
    return None if wanted is None else "query" if wanted == "query" else "document"


def _listed(given: Any) -> list[Any]:
    """The input as a list of items; a flat list of token ids is one item."""
    if isinstance(given, str | dict):
        return [given]
    if not isinstance(given, list):
        raise InvalidInput("input must be a string, an object, or a list", param="input")
    return [given] if given and _is_token(given[0]) else given


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _is_text(item: Any, kind: str) -> bool:
    return isinstance(item, str) and kind == "text" and item[:5].lower() != "data:"


def _check_not_empty(text: str, index: int) -> None:
    if not text:
        raise InvalidInput("the text is empty", index=index, param="input")


def _kinds(modality: str | Sequence[str] | None, count: int) -> list[str]:
    """What a plain string in each place is."""
    listed = [modality or "text"] if isinstance(modality, str | None) else list(modality)
    kinds = listed * count if len(listed) == 1 else listed
    if len(kinds) != count or not set(kinds) <= set(KINDS):
        message = f"modality must be one of {', '.join(KINDS)}, or a list with one for each item"
        raise InvalidInput(message, param="modality")
    return kinds


def _from_tokens(items: list[Any], token_ids: str) -> list[str | tuple[int, ...]]:
    """Texts for lists of token ids, as the setting says."""
    if token_ids == "reject":  # noqa: S105  # a setting's value
        raise BadRequest(REJECTED, param="input")
    for index, ids in enumerate(items):
        if not (isinstance(ids, list) and ids and all(map(_is_token, ids))):
            message = "a list of token ids must hold whole numbers only, and at least one"
            raise InvalidInput(message, index=index, param="input")
        if not all(0 <= each < 2**31 for each in ids):
            raise InvalidInput("a token id is out of range", index=index, param="input")
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
            message = "cl100k_base has no such token id"
            raise InvalidInput(message, index=index, param="input") from None
    return texts


def _read_item(item: Any, kind: str, index: int, texts_like: Texts) -> Embeddable:
    if isinstance(item, str):
        if item[:5].lower() == "data:":
            kind = "video" if item[5:11].lower() == "video/" else "image"
        return _make(kind, item, index, texts_like)
    if not isinstance(item, dict):
        message = "an item must be a string or an object with text, image or video"
        raise InvalidInput(message, index=index, param="input")
    kind, value = _kind_and_value(item, index)
    return _make(kind, value, index, texts_like)


def _kind_and_value(item: dict[str, Any], index: int) -> tuple[str, str]:
    """What an object holds: {"image": …}, or {"type": "image_url", "image_url": {"url": …}}."""
    found = [
        (kind, item[key])
        for kind in KINDS
        for key in (kind, f"{kind}_url", f"{kind}_base64")
        if item.get(key) is not None
    ]
    if len(found) != 1:
        message = "an item must hold exactly one of text, image, video, image_url, video_url"
        raise InvalidInput(message, index=index, param="input")
    kind, value = found[0]
    if isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        raise InvalidInput(f"the {kind} must be a string", index=index, param="input")
    return kind, value


def _make(kind: str, value: str, index: int, texts_like: Texts) -> Embeddable:
    _check_not_empty(value, index)
    if kind == "text":
        return Texts([value], texts_like.role, texts_like.instruction, many=False)
    remote = value[:7].lower() == "http://" or value[:8].lower() == "https://"
    if kind == "image" and remote:
        return ImageUrlInput(type="image_url", image_url=value)
    if kind == "image":
        return ImageBase64Input(type="image_base64", image_base64=value)
    if remote:
        return VideoUrlInput(type="video_url", video_url=value, segment_config=ONE_VECTOR)
    return VideoBase64Input(type="video_base64", video_base64=value, segment_config=ONE_VECTOR)

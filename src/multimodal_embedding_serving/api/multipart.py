"""Uploads of images and videos without base64: multipart/form-data (RFC 7578) on /v1/embeddings.

Every file and every `input` or `text` field is an item with one vector, in the order of the form;
the first bytes of a file decide whether it is an image or a video. The other fields are those of
the JSON body. The form is parsed in memory, within the limit of a body; nothing goes to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from multimodal_embedding_serving.api.openai_input import ONE_VECTOR, read_role
from multimodal_embedding_serving.api.request_body import explain
from multimodal_embedding_serving.api.schemas import OpenAIRequest
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.inputs.items import (
    Embeddable,
    Images,
    InputLimits,
    ItemBatch,
    Texts,
    Video,
)
from multimodal_embedding_serving.inputs.kinds import SegmentConfig
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
TEXT_FIELDS = ("input", "text")
MAX_OPTIONS = 64
"""Fields other than items; the JSON body has fewer than 20."""
MAX_FIELD_BYTES = 2**16
"""Of such a field."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file -> one vector: that of an image, or the mean of a video's frames."""

    data: bytes
    segment: SegmentConfig
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        if recognize(self.data) is not None:
            return await Images([self.data]).expand(media, limits)
        segment = self.segment.segment(media.segment)
        return await Video(self.data, segment).expand(media, limits)


@dataclass(slots=True)
class Part:
    """One part of a form; `chunks` grows while the form is parsed."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def name_and_file(self) -> tuple[str, bool]:
        """The field's name, and whether it is a file. Raises InvalidInput if it has no name."""
        disposition, options = parse_options_header(self.headers.get(b"content-disposition"))
        name = options.get(b"name", b"")
        if disposition != b"form-data" or not name:
            raise InvalidInput(
                'every part of the form needs a Content-Disposition: form-data; name="…" header'
            )
        return name.decode("utf-8", "replace"), b"filename" in options

    def text(self, name: str) -> str:
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(f"{name}: the field is not valid UTF-8", param=name) from None


def read_form(
    content_type: str, body: bytes, settings: Settings
) -> tuple[OpenAIRequest, list[Embeddable]]:
    """A form -> the request's options, and its items as inputs with one vector each.

    Raises InvalidInput with the field's name, and TooLarge if the form has too many parts.
    """
    fields: dict[str, Any] = {}
    items: list[bytes | str] = []
    for part in split_form(content_type, body, settings.max_items + MAX_OPTIONS):
        name, is_file = part.name_and_file()
        if is_file:
            items.append(part.data)
        elif name in TEXT_FIELDS:
            items.append(part.text(name))
        elif len(part.data) <= MAX_FIELD_BYTES:
            fields[name] = part.text(name)
        else:
            message = f"{name}: the field is longer than {MAX_FIELD_BYTES:,} bytes"
            raise InvalidInput(message, param=name)
    if not items:
        raise InvalidInput("the form has no files and no input fields", param="input")
    segment = _segment(fields.pop("segment_config", None))
    try:
        # Form fields are strings: unlike in JSON, "256" has to be accepted as a number.
        request = OpenAIRequest.model_validate({**fields, "input": ""}, strict=False)
    except ValidationError as error:
        raise explain(error) from None
    role = read_role(request)
    return request, [
        Texts([item], role, request.instruction, many=False)
        if isinstance(item, str)
        else Upload(item, segment)
        for item in items
    ]


def split_form(content_type: str, body: bytes, max_parts: int) -> list[Part]:
    """The parts of a form. Raises InvalidInput if it is malformed, TooLarge above `max_parts`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidInput("the form's Content-Type has no boundary; let the HTTP client set it")
    parts: list[Part] = []
    name, value, complete = bytearray(), bytearray(), False

    def begin() -> None:
        if len(parts) == max_parts:
            raise _too_many_parts(max_parts)
        parts.append(Part())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal complete
        complete = True

    callbacks: MultipartCallbacks = {
        "on_part_begin": begin,
        "on_part_data": lambda data, start, stop: parts[-1].chunks.append(data[start:stop]),
        "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": header_end,
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"could not parse the form: {str(error)[:200]}") from None
    if not complete:
        raise InvalidInput("the form is truncated: its closing boundary is missing")
    return parts


def _too_many_parts(limit: int) -> TooLarge:
    message = f"the form has more than {limit:,} parts (see EMBEDDING_MAX_ITEMS)"
    return TooLarge(message, param="input")


def _segment(text: str | None) -> SegmentConfig:
    """Which frames of the form's videos to embed; always pooled, because an item has one vector."""
    try:
        config = SegmentConfig() if text is None else SegmentConfig.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, "segment_config") from None
    return config.model_copy(update={"pooling": ONE_VECTOR.pooling})


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "Each file and each input is an item with one vector, in form order.",
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "input": {"type": "array", "items": {"type": "string"}},
        **{
            name: {"type": "string"}
            for name in ("model", "encoding_format", "input_type", "instruction", "segment_config")
        },
        "dimensions": {"type": "integer"},
    },
}
"""The form in the OpenAPI document."""

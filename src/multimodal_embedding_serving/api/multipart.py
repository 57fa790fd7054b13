"""Images and videos as they are, without base64: multipart/form-data (RFC 7578) on /v1/embeddings.

Every file, and every `input` or `text` field, is an item that gives one vector, in the order of
the form; what a file holds is told by its first bytes. The other fields are those of the JSON body.
The form is read from memory, within the limit of a body: nothing is written to a disk.
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
TEXTS = ("input", "text")
FIELDS = 64
"""Fields that are no items: more is no form for this service."""
MAX_FIELD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file -> one vector: an image's, or the mean of a video's frames."""

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
    """One part of a form, while it is read and afterwards."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def name_and_file(self) -> tuple[str, bool]:
        """The field's name, and whether it is a file. Raises InvalidInput where it has no name."""
        kind, options = parse_options_header(self.headers.get(b"content-disposition"))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name:
            raise InvalidInput("a part of the form has no name")
        return name.decode("utf-8", "replace"), b"filename" in options

    def text(self, name: str) -> str:
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(f"{name}: the field is not UTF-8", param=name) from None


def read_form(
    content_type: str, body: bytes, settings: Settings
) -> tuple[OpenAIRequest, list[Embeddable]]:
    """A form -> the request's fields, and its items as inputs of one vector each.

    Raises InvalidInput naming the field, TooLarge for more items than a request may have.
    """
    fields: dict[str, Any] = {}
    items: list[bytes | str] = []
    for part in split_form(content_type, body, settings.max_items + FIELDS):
        name, is_file = part.name_and_file()
        if is_file:
            items.append(part.data)
        elif name in TEXTS:
            items.append(part.text(name))
        elif len(part.data) <= MAX_FIELD_BYTES:
            fields[name] = part.text(name)
        else:
            raise InvalidInput(f"{name}: the field is too long", param=name)
    if not items:
        raise InvalidInput("the form holds no file and no input field", param="input")
    segment = _segment(fields.pop("segment_config", None))
    try:
        # Form fields are strings: here alone "256" is a number.
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


def split_form(content_type: str, body: bytes, most: int) -> list[Part]:
    """The parts of a form's body. Raises InvalidInput where it is none, TooLarge above `most`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidInput("the form's content-type names no boundary")
    parts: list[Part] = []
    name, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == most:
            raise TooLarge(f"the form has more than {most:,} parts", param="input")
        parts.append(Part())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

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
        raise InvalidInput(f"the form is malformed: {str(error)[:200]}") from None
    if not ended:
        raise InvalidInput("the form ends before its last boundary")
    return parts


def _segment(given: str | None) -> SegmentConfig:
    """Which frames of the form's videos; always pooled, because an item has one vector."""
    try:
        config = SegmentConfig() if given is None else SegmentConfig.model_validate_json(given)
    except ValidationError as error:
        raise explain(error, "segment_config") from None
    return config.model_copy(update={"pooling": ONE_VECTOR.pooling})


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "Files and text fields are items, in their order; each gives one vector.",
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
"""What OpenAPI is told of the form."""

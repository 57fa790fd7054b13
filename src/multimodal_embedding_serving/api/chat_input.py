"""Conversations on /v1/embeddings, as vLLM takes them: `messages`, or messages in `input`.

A conversation has one vector. Of several parts, it is the renormalized mean, as in Cohere's API. A
list of conversations has one vector for each.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from multimodal_embedding_serving.api.schemas import EXAMPLE_IMAGE, OpenAIRequest
from multimodal_embedding_serving.errors import BadRequest, EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.kinds import WireModel

Part = dict[str, Any]


class ChatMessage(WireModel):
    role: str
    """A system message is the instruction of the texts; other roles make no difference."""
    content: str | Annotated[list[Part], Field(fail_fast=True)]
    """A text, or parts: {"type": "text", "text": …}, {"type": "image_url", "image_url": …}."""


Conversation = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
Conversations = Conversation | Annotated[list[Conversation], Field(min_length=1, fail_fast=True)]


class ChatRequest(OpenAIRequest):
    """POST /v1/embeddings with conversations."""

    input: Conversations | None = None
    messages: Conversations | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "a cat"}]},
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [{"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}}],
                        }
                    ]
                },
            ]
        }
    )


def choose_body(body: Mapping[str, Any]) -> type[OpenAIRequest]:
    """The model of a body of /v1/embeddings: `role` tells a message from an item."""
    value = body.get("input")
    for _ in range(2):  # a conversation, or a list of them
        if isinstance(value, list) and value:
            value = value[0]
    is_message = isinstance(value, dict) and "role" in value
    return ChatRequest if "messages" in body or is_message else OpenAIRequest


def list_parts(request: ChatRequest) -> tuple[OpenAIRequest, list[int]]:
    """The request with all parts as items, and how many of them each conversation has.

    Raises InvalidInput for a conversation without content, BadRequest if several system messages
    differ, because a request has one instruction, or if there are both `messages` and `input`.
    """
    if request.input is not None and request.messages is not None:
        raise BadRequest("messages: must not be sent with input", param="messages")
    value: Any = request.messages if request.messages is not None else request.input
    conversations: list[list[ChatMessage]] = value if isinstance(value[0], list) else [value]
    systems = {_text(each) for chat in conversations for each in chat if each.role == "system"}
    if request.instruction is not None:
        systems.add(request.instruction)
    if len(systems) > 1:
        raise BadRequest("messages: a request has one system message", param="messages")
    contents = [
        [part for each in chat if each.role != "system" for part in _parts(each)]
        for chat in conversations
    ]
    for place, content in enumerate(contents):
        if not content:
            message = f"messages[{place}]: has no content besides the system message"
            raise InvalidInput(message, param="messages")
    items = [part for content in contents for part in content]
    update = {"input": items, "instruction": next(iter(systems), None)}
    return request.model_copy(update=update), [len(content) for content in contents]


def _parts(message: ChatMessage) -> list[Part]:
    return [{"text": message.content}] if isinstance(message.content, str) else message.content


def _text(message: ChatMessage) -> str:
    texts = [part.get("text") for part in _parts(message)]
    if not all(isinstance(each, str) for each in texts):
        raise InvalidInput("messages: a system message has text only", param="messages")
    return "\n".join(map(str, texts))


def locate(error: EmbeddingError, parts: Sequence[int]) -> EmbeddingError:
    """The same error, with the conversation named as the client wrote it: `messages[1]: …`."""
    if error.index is not None:
        place = bisect(list(accumulate(parts, initial=0)), error.index) - 1
        if len(parts) > 1:
            error.message = f"messages[{place}]: {error.message}"
        error.index, error.param = None, "messages"
    return error

"""Wrong calls of the SDK, each with the message that it gets: which says what to do."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.errors import EmbeddingError

NAN = float("nan")
URL = "http://127.0.0.1:9"

WRONG_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"texts": ["a", None]}, "texts[1]: a text must be a string, not None; drop it or replace it"),
    ({"texts": ["a", NAN]}, "texts[1]: a text must be a string, not NaN; drop it or replace it"),
    ({"texts": [1, 2]}, "texts[0]: a text must be a string, not int; use str(…)"),
    ({"texts": [b"a"]}, "texts[0]: a text must be a string, not bytes; use .decode()"),
    ({"texts": [Path("a.txt")]}, "texts[0]: a text must be a string, not a path; use .read_text(), or images="),
    ({"texts": [["a"]]}, "texts[0]: a text must be a string, not a list; pass one flat list (token ids can't be embedded)"),
    ({"texts": [np.zeros(3)]}, "texts[0]: a text must be a string, not ndarray; pass it as images="),
    ({"texts": 5}, "texts must be a string (a query) or a list of strings (documents), not int"),
    ({"texts": b"a"}, "texts must be a string (a query) or a list of strings (documents), not bytes"),
    ({"texts": {"a": 1}}, "texts must be one item or a list, not a dict; pass list(…) of what to embed"),
    ({"texts": {"a"}}, "texts must be one item or a list, not a set; pass list(…) of what to embed"),
    ({"images": "a cat"}, "images: a cat: no such file; check the path, or pass a text as texts= (images= takes files and URLs)"),
    ({"images": "/nowhere/cat.jpg"}, "images: /nowhere/cat.jpg: no such file; check it"),
    ({"images": ["/nowhere/cat.jpg"]}, "images[0]: /nowhere/cat.jpg: no such file; check it"),
    ({"images": [Path("/nowhere/cat.jpg")]}, "images[0]: /nowhere/cat.jpg: no such file; check it"),
    ({"images": "/tmp"}, "images: /tmp: is a folder; use embed_folder(…), or pass a list of its files"),
    ({"images": "s3://bucket/cat.jpg"}, "images: s3://bucket/cat.jpg: s3:// can't be read; pass a path, an http or https URL, or the bytes"),
    ({"images": "file:///cat.jpg"}, "images: file:///cat.jpg: file:// can't be read; pass a path, an http or https URL, or the bytes"),
    ({"images": ""}, "images: the string is empty; pass a path or a URL"),
    ({"images": b""}, "images: there are no bytes; pass the contents of a file, or its path"),
    ({"images": "a\0b"}, "images: a\0b: 'a\\x00b': can't be read: it is not a file name"),
    ({"images": 5}, "images must be a path, an http, https or data URL, encoded bytes, a PIL image or an array, or a list of these, not int"),
    ({"images": [5]}, "images[0]: must be a path, an http, https or data URL, encoded bytes, a PIL image or an array, not int"),
    ({"images": [None]}, "images[0]: must be a path, an http, https or data URL, encoded bytes, a PIL image or an array, not None; drop it"),
    ({"images": io.BytesIO(b"x")}, "images: must be a path, an http, https or data URL, encoded bytes, a PIL image or an array, not BytesIO; use .read()"),
    ({"images": {"a": 1}}, "images must be one item or a list, not a dict; pass list(…) of what to embed"),
    ({"images": [["a.jpg"]]}, "images[0]: must be a path, an http, https or data URL, encoded bytes, a PIL image or an array, not list"),
    ({"video": "/nowhere/film.mp4"}, "video: /nowhere/film.mp4: no such file; check it"),
    ({"video": ["/nowhere/film.mp4"]}, "video[0]: /nowhere/film.mp4: no such file; check it"),
    ({"video": "rtsp://camera/1"}, "video: rtsp://camera/1: rtsp:// can't be read; pass a path, an http or https URL, or the bytes"),
    ({"video": np.zeros((2, 4, 4, 3), np.uint8)}, "video: must be a path, an http, https or data URL, or encoded bytes, not ndarray; pass frames as images=[…]"),
    ({"video": [Image.new("RGB", (4, 4))]}, "video[0]: must be a path, an http, https or data URL, or encoded bytes, not Image; pass frames as images=[…]"),
    ({"video": 3}, "video must be a path, an http, https or data URL, or encoded bytes, or a list of these, not int"),
    ({}, "exactly one of texts, images and video is required, and none was given"),
    ({"texts": "a", "images": b"x"}, "exactly one of texts, images and video is required, not texts and images together"),
    ({"texts": "a", "role": "nonsense"}, "role must be 'query' or 'document', not 'nonsense'"),
    ({"texts": "a", "role": ["query"]}, "role must be 'query' or 'document', not ['query']"),
    ({"texts": "a", "on_error": "ignore"}, "on_error must be 'raise' or 'skip', not 'ignore'"),
    ({"texts": "a", "instruction": 5}, "instruction must be a string, not int"),
    ({"texts": "a", "dimensions": 0}, "dimensions must be a whole number greater than 0, not 0"),
    ({"texts": "a", "dimensions": "64"}, "dimensions must be a whole number greater than 0, not '64'"),
    ({"texts": "a", "dimensions": True}, "dimensions must be a whole number greater than 0, not True"),
    ({"images": b"x", "role": "query"}, "role='query' applies to texts= only; leave it out for images="),
    ({"images": b"x", "instruction": "i"}, "instruction='i' applies to texts= only; leave it out for images="),
    ({"texts": "a", "segment": {"num_frames": 2}}, "segment={'num_frames': 2} applies to video= only; leave it out for texts="),
    ({"video": b"x", "segment": {"frames": 4}}, "segment has no key 'frames'; did you mean 'num_frames'?"),
    ({"video": b"x", "segment": {"start_offset": 4}}, "segment has no key 'start_offset'; did you mean 'startOffsetSec'?"),
    ({"video": b"x", "segment": 8}, "segment must be a dict such as {'num_frames': 8}, not int"),
]  # fmt: skip
"""Calls of `embed`, which Engine and the clients answer alike."""

WRONG_FORMS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda it: it.embed("a cat"), "embed() takes its input by name: embed(texts=…), embed(images=…) or embed(video=…)"),
    (lambda it: it.embed(text="a cat"), "embed() has no argument 'text'; did you mean 'texts'?"),
    (lambda it: it.embed(image="a.jpg"), "embed() has no argument 'image'; did you mean 'images'?"),
    (lambda it: it.embed(videos=[]), "embed() has no argument 'videos'; did you mean 'video'?"),
    (lambda it: it.embed_texts("a", dims=3), "embed_texts() has no argument 'dims'; did you mean 'dimensions'?"),
    (lambda it: it.embed_texts(None), "texts[0]: a text must be a string, not None; drop it or replace it"),
    (lambda it: it.embed_video(b"x", segment={"Fps": 1}), "segment has no key 'Fps'; did you mean 'fps'?"),
]  # fmt: skip

WRONG_CLIENTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "127.0.0.1:9777"}, "url '127.0.0.1:9777' is not an http or https URL; use 'http://127.0.0.1:9777'"),
    ({"url": "ftp://h"}, "url 'ftp://h' is not an http or https URL; start it with http:// or https://"),
    ({"url": f"{URL}/v1"}, f"url '{URL}/v1' ends with /v1; use the server's address without it: '{URL}'"),
    ({"url": f"{URL}/v1/"}, f"url '{URL}/v1/' ends with /v1; use the server's address without it: '{URL}'"),
    ({"url": f"{URL}/embeddings"}, f"url '{URL}/embeddings' ends with /embeddings; use the server's address without it: '{URL}'"),
    ({"url": "http://"}, "url 'http://' names no host; use one such as 'http://127.0.0.1:9777'"),
    ({"url": "http://h?x=1"}, "url 'http://h?x=1' has a query or a fragment; use one such as 'http://127.0.0.1:9777'"),
    ({"url": None}, "url must be a string such as 'http://127.0.0.1:9777', not None"),
    ({"api_key": "k\n"}, "api_key has a character that no HTTP header can hold, such as a line break; strip it"),
    ({"api_key": ""}, "api_key must be a string that is not empty, or left out, not ''"),
    ({"model": 5}, "model must be a string that is not empty, or left out, not 5"),
    ({"timeout": 0}, "timeout must be a number greater than 0, not 0"),
    ({"retries": -1}, "retries must be a whole number of 0 or more, not -1"),
    ({"batch": 0}, "batch must be a whole number greater than 0, not 0"),
    ({"parallel": 2.5}, "parallel must be a whole number greater than 0, not 2.5"),
]  # fmt: skip

WRONG_OPENINGS: list[tuple[dict[str, Any], str]] = [
    ({"use_ov": False}, "Engine.open() has no argument 'use_ov'; use 'use_openvino'"),
    ({"batch_size": 4}, "Engine.open() has no argument 'batch_size'; use 'image_batch'"),
    ({"precison": "f32"}, "Engine.open() has no argument 'precison'; did you mean 'precision'?"),
    ({"device": "XPU"}, "device='XPU' is not allowed; allowed: CPU, GPU, GPU.1, NPU, AUTO, "),
    ({"device": "CUDA:7"}, "device='cuda:7' is not available; available devices: "),
    ({"precision": 32}, "precision=32 is not allowed: a string is expected, not int"),
    ({"workers": -1}, "workers='-1' is not allowed; allowed: a whole number, 1 to 1024, or auto"),
    ({"workers": [2]}, "workers=[2] is not allowed: a number is expected, not list"),
    ({"use_openvino": 3}, "use_openvino=3 is not allowed: True or False is expected, not int"),
    ({"image_formats": ["JPG"]}, "image_formats='JPG' is not allowed; allowed: JPEG, "),
    ({"model": ""}, "model='' is empty; leave it out for the default"),
    ({"model": 5}, "model=5 is not allowed: a string is expected, not int"),
    ({"settings": {"device": "CPU"}}, "settings must be a Settings, not dict"),
    ({"model": "m", "settings": mmes.Settings()}, "settings= and model= exclude each other; pass model to Settings.from_env(model=…)"),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[mmes.Engine]:
    with mmes.Engine.open("Builtin/mini") as engine:
        yield engine


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises((EmbeddingError, TypeError)) as caught:
        call()
    return str(caught.value)


def test_fifty_wrong_calls_are_listed() -> None:
    calls = len(WRONG_INPUTS) + len(WRONG_FORMS) + len(WRONG_CLIENTS) + len(WRONG_OPENINGS)
    assert calls >= 50


@pytest.mark.parametrize(("arguments", "message"), WRONG_INPUTS)
async def test_a_wrong_input_is_named_by_engine_and_clients_alike(
    arguments: dict[str, Any], message: str, engine: mmes.Engine
) -> None:
    """No client asks its server, which is not there."""
    assert message_of(lambda: engine.embed(**arguments)) == message
    with mmes.Client(URL, retries=0) as client:
        assert message_of(lambda: client.embed(**arguments)) == message
    async with mmes.AsyncClient(URL, retries=0) as other:
        for embed in (engine.aembed, other.embed):
            with pytest.raises(EmbeddingError) as caught:
                await embed(**arguments)
            assert str(caught.value) == message


@pytest.mark.parametrize(("call", "message"), WRONG_FORMS)
def test_a_wrong_form_of_a_call_is_explained(
    call: Callable[[Any], Any], message: str, engine: mmes.Engine
) -> None:
    assert message_of(lambda: call(engine)) == message
    with mmes.Client(URL, retries=0) as client:
        assert message_of(lambda: call(client)) == message


@pytest.mark.parametrize(("arguments", "message"), WRONG_CLIENTS)
def test_a_wrong_argument_of_a_client_is_named(arguments: dict[str, Any], message: str) -> None:
    assert message_of(lambda: mmes.Client(**arguments)) == message
    assert message_of(lambda: mmes.AsyncClient(**arguments)) == message


@pytest.mark.parametrize(("arguments", "message"), WRONG_OPENINGS)
def test_a_wrong_argument_of_open_is_named(arguments: dict[str, Any], message: str) -> None:
    assert message_of(lambda: mmes.Engine.open(**arguments)).startswith(message)


def test_a_file_that_is_no_image_is_named(engine: mmes.Engine, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("these are not pixels")
    cases: list[tuple[Any, str]] = [(notes, "images: "), ([str(notes)], "images[0]: ")]
    for images, prefix in cases:
        message = message_of(lambda: engine.embed(images=images))  # noqa: B023
        assert message.startswith(f"{prefix}{notes}: not a supported image format (supported: ")


def test_a_server_that_is_away_is_named_with_what_to_check() -> None:
    with mmes.Client(URL, retries=0) as client:
        message = message_of(lambda: client.embed(texts="a"))
    assert message.startswith(f"could not connect to {URL} (ConnectError); is it running")


async def test_a_closed_client_says_so() -> None:
    client, other = mmes.Client(URL), mmes.AsyncClient(URL)
    client.close()
    await other.close()
    expected = "the client is closed; make another one"
    assert message_of(lambda: client.embed(texts="a")) == expected
    with pytest.raises(EmbeddingError, match=expected):
        await other.current()


def test_a_relative_path_is_told_where_it_was_looked_for(engine: mmes.Engine) -> None:
    message = message_of(lambda: engine.embed(images="nope.jpg"))
    assert message == f"images: nope.jpg: no such file; check the path (relative to {Path.cwd()})"

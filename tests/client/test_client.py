"""The HTTP client against a small real server."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving import errors
from multimodal_embedding_serving.client import AsyncClient, Client
from multimodal_embedding_serving.client.protocol import RequestBuilder
from multimodal_embedding_serving.sdk.arguments import ImageLike
from multimodal_embedding_serving.types import Vectors
from tests.server_standin import DIMENSION, Reply, SmallServer, on_wire, serving_small, vector_of


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with serving_small() as small:
        yield small


@pytest.fixture
def client(server: SmallServer) -> Iterator[Client]:
    """One request after the other: the tests look at the order in which the server was asked."""
    with Client(server.url, batch=3, parallel=1) as client:
        yield client


def same(vectors: Vectors, contents: list[str]) -> bool:
    expected = np.stack([vector_of(each) for each in contents])
    return vectors.dtype == np.float32 and np.array_equal(vectors, expected)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def sent_images(server: SmallServer) -> list[Image.Image]:
    listed = [each for _, body in server.asked for each in body["input"]["image_base64"]]
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in listed]


def test_texts_come_back_in_order_and_in_several_requests(
    server: SmallServer, client: Client
) -> None:
    texts = [f"text {n}" for n in range(8)]
    assert same(client.embed_texts(texts), texts)
    assert [len(body["input"]) for _, body in server.asked] == [3, 3, 2]
    assert {body["encoding_format"] for _, body in server.asked} == {"base64"}


def test_a_string_is_a_query_and_a_list_holds_documents(
    server: SmallServer, client: Client
) -> None:
    assert client.embed_texts("one").shape == (1, DIMENSION)
    client.embed_texts(["one"])
    client.embed_texts(["one"], role="query", instruction="find", dimensions=2)
    assert [body["input_type"] for _, body in server.asked] == ["query", "document", "query"]
    assert server.asked[2][1]["instruction"] == "find"
    assert server.asked[2][1]["dimensions"] == 2


def test_a_large_input_is_in_flight_several_times_at_once(server: SmallServer) -> None:
    """Four requests wait for each other: none is answered before the fourth has come."""
    server.meeting = threading.Barrier(4, timeout=20)
    texts = [f"text {n}" for n in range(8)]
    with Client(server.url, batch=2, parallel=4) as client:
        assert same(client.embed_texts(texts), texts)


def test_the_first_failure_stops_the_rest(server: SmallServer) -> None:
    server.refusals = [(422, {}, {"detail": "broken", "code": "invalid_input", "index": 0})]
    sent: list[int] = []

    def images() -> Iterator[bytes]:
        for shade in range(200):
            sent.append(shade)
            yield png(shade)

    with Client(server.url, batch=1, parallel=2) as client:
        with pytest.raises(errors.InvalidInput, match="broken"):
            client.embed_images(images())
        assert len(sent) < 10
        assert same(client.embed_texts("on it goes"), ["on it goes"])


def test_nothing_asked_is_nothing_answered(server: SmallServer, client: Client) -> None:
    assert client.embed_texts([]).shape == (0, 0)
    assert client.embed_images([]).shape == (0, 0)
    assert server.asked == []


def test_lone_surrogates_reach_the_server(server: SmallServer, client: Client) -> None:
    client.embed_texts(["half \ud83d"])
    assert server.asked[0][1]["input"] == ["half \ud83d"]


def test_every_kind_of_image_source_becomes_one_vector(
    server: SmallServer, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png(1))
    array = np.full((4, 4, 3), 7, np.uint8)
    data_url = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    images: list[ImageLike] = [path, str(path), png(1), data_url, array, Image.new("L", (4, 4), 9)]
    assert client.embed_images(images).shape == (len(images), DIMENSION)
    listed = [each for _, body in server.asked for each in body["input"]["image_base64"]]
    encoded = base64.b64encode(png(1)).decode()
    assert listed[:4] == [encoded, encoded, encoded, data_url]
    sent = [Image.open(io.BytesIO(base64.b64decode(each))) for each in listed[4:]]
    assert [each.mode for each in sent] == ["RGB", "L"]
    assert np.array_equal(np.asarray(sent[0]), array)


def test_urls_stay_urls_and_mix_with_files(server: SmallServer, client: Client) -> None:
    url = "https://example.com/cat.jpg"
    assert same(client.embed_images(url), [url])
    assert server.asked[0][1]["input"] == {"type": "image_url", "image_url": [url]}
    encoded = base64.b64encode(png(3)).decode()
    assert same(client.embed_images([url, png(3)]), [url, encoded])
    assert server.asked[1][1]["input"]["type"] == "video_frames"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_an_image_is_sent_without_loss(server: SmallServer, client: Client, mode: str) -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 250)
    else:
        image = Image.fromarray(ramp).convert(mode)
    client.embed_images(image)
    (sent,) = sent_images(server)
    assert np.array_equal(np.asarray(sent.convert(image.mode)), np.asarray(image))


def test_an_images_orientation_is_sent_with_it(server: SmallServer, client: Client) -> None:
    image = Image.new("RGB", (4, 8))
    image.getexif()[0x0112] = 6
    client.embed_images(image)
    assert sent_images(server)[0].getexif()[0x0112] == 6


def test_an_array_that_is_not_an_image_is_rejected(client: Client) -> None:
    with pytest.raises(errors.InvalidInput, match=r"not \[2, 3, 4, 5\]"):
        client.embed_images(np.zeros((2, 3, 4, 5)))


def test_a_video_names_its_frames(server: SmallServer, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    answer = client.embed_video(path, segment={"num_frames": 2})
    assert same(answer.vectors, ["0", "12"])
    assert [(frame.index, frame.timestamp) for frame in answer.frames] == [(0, 0.0), (12, 0.5)]
    source = server.asked[0][1]["input"]
    assert base64.b64decode(source["video_base64"]) == b"clip"
    assert source["segment_config"] == {"num_frames": 2}
    client.embed_video("http://example.com/clip.mp4")
    assert server.asked[1][1]["input"]["video_url"] == "http://example.com/clip.mp4"


def test_the_models_can_be_asked_for(client: Client) -> None:
    assert client.models() == {"F": ["m"]}
    assert client.current()["model"] == "F/m"
    assert client.capabilities()["modalities"] == ["text"]


def test_the_key_and_the_model_go_with_each_request(server: SmallServer) -> None:
    with Client(server.url, api_key="k", model="F/m") as client:
        client.embed_texts("one")
    assert server.keys == ["Bearer k"]
    assert server.asked[0][1]["model"] == "F/m"


def test_a_busy_server_is_asked_again_after_the_pause_it_names(
    server: SmallServer, client: Client
) -> None:
    server.refusals = [(429, {"retry-after": "0"}, {}), (503, {"retry-after": "0"}, {})]
    assert same(client.embed_texts("one"), ["one"])
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("named", "least", "most"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("100000", 60, 60),
        ("in an hour", 60, 60),
        ("Thu, 01 Jan 2015 00:00:00 GMT", 0, 0),
        ("soon", 0.25, 0.4),
        ("\u00b2", 0.25, 0.4),
    ],
)
def test_a_pause_is_named_by_seconds_or_by_a_date(named: str, least: float, most: float) -> None:
    if named == "in an hour":
        named = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    busy = httpx2.Response(429, headers=[(b"retry-after", named.encode("latin-1"))])
    pause = RequestBuilder(None, 1, retries=4).pause(busy, 0)
    assert pause is not None
    assert least <= pause <= most


def test_without_a_named_pause_each_pause_is_longer() -> None:
    protocol, busy = RequestBuilder(None, 1, retries=4), httpx2.Response(503)
    pauses = [protocol.pause(busy, attempt) or 0 for attempt in range(4)]
    assert pauses == sorted(pauses)
    assert protocol.pause(busy, 4) is None
    assert protocol.pause(httpx2.ReadTimeout("late"), 0) is None


def test_a_server_that_stays_busy_is_believed_in_the_end(server: SmallServer) -> None:
    server.refusals = [(429, {"retry-after": "0"}, {"detail": "full"})] * 3
    with Client(server.url, retries=2) as client, pytest.raises(errors.QueueFull, match="full"):
        client.embed_texts("one")
    assert len(server.asked) == 3


def test_what_should_not_be_sent_again_is_not(server: SmallServer, client: Client) -> None:
    server.refusals = [(503, {"x-should-retry": "false"}, {"detail": "no"})]
    with pytest.raises(errors.NotReady):
        client.embed_texts("one")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"detail": "m", "code": "model_mismatch"}, errors.ModelMismatch),
        (400, {"error": {"message": "m", "code": "invalid_input"}}, errors.InvalidInput),
        (400, {"error": {"message": "m", "code": None}}, errors.BadRequest),
        (401, {"error": {"message": "m", "code": "invalid_api_key"}}, errors.Unauthorized),
        (404, {"error": {"message": "m", "code": "model_not_found"}}, errors.UnknownModel),
        (413, {"detail": "m"}, errors.TooLarge),
        (415, {"detail": "m"}, errors.UnsupportedMedia),
        (422, {"detail": [{"msg": "m"}]}, errors.InvalidInput),
        (424, {"detail": "m"}, errors.RemoteFailed),
        (504, {"detail": "m"}, errors.DeadlineExceeded),
        (500, {"detail": "m"}, errors.RemoteFailed),
        (501, {"detail": "m", "code": "missing_extra"}, errors.RemoteFailed),
        (418, {}, errors.RemoteFailed),
    ],
)
def test_a_refusal_is_raised_as_the_servers_own_error(
    server: SmallServer,
    client: Client,
    status: int,
    body: dict[str, Any],
    kind: type[errors.EmbeddingError],
) -> None:
    server.refusals = [(status, {}, body)]
    with pytest.raises(errors.EmbeddingError) as caught:
        client.embed_texts("one")
    assert type(caught.value) is kind


def test_the_item_at_fault_is_named_by_its_place_in_the_callers_list(
    server: SmallServer, client: Client
) -> None:
    fine: Reply = (200, {}, {"data": [{"index": i, "embedding": on_wire("x")} for i in range(3)]})
    server.refusals = [fine, (400, {}, {"error": {"message": "input[1]: too long", "code": None}})]
    with pytest.raises(errors.BadRequest) as caught:
        client.embed_texts([str(n) for n in range(6)])
    assert (caught.value.index, caught.value.message) == (4, "too long")
    server.refusals = [(422, {}, {"detail": "broken", "code": "invalid_input", "index": 2})]
    with pytest.raises(errors.InvalidInput, match=r"^images\[2\]: broken$"):
        client.embed_images([png(1), png(2), png(3)])


def test_a_server_that_is_not_there_is_a_typed_error() -> None:
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(errors.RemoteFailed):
        client.current()


async def test_the_async_client_answers_the_same(server: SmallServer) -> None:
    texts = [f"text {n}" for n in range(10)]
    async with AsyncClient(server.url, batch=2, parallel=3) as client:
        assert same(await client.embed_texts(texts), texts)
        images = [png(shade) for shade in range(5)]
        encoded = [base64.b64encode(each).decode() for each in images]
        assert same(await client.embed_images(images), encoded)
        answer = await client.embed_video(b"clip")
        assert [frame.index for frame in answer.frames] == [0, 12]
        assert await client.models() == {"F": ["m"]}
        assert (await client.current())["model"] == "F/m"
        assert (await client.capabilities())["modalities"] == ["text"]


async def test_the_async_client_stops_at_the_first_refusal(server: SmallServer) -> None:
    server.refusals = [(422, {}, {"detail": "broken", "code": "invalid_input", "index": 0})]
    async with AsyncClient(server.url, batch=1, parallel=1) as client:
        with pytest.raises(errors.InvalidInput, match="broken"):
            await client.embed_images([png(shade) for shade in range(20)])
    assert len(server.asked) < 20


async def test_many_async_calls_share_one_client(server: SmallServer) -> None:
    async with AsyncClient(server.url) as client:
        answers = await asyncio.gather(*[client.embed_texts(str(n)) for n in range(20)])
    assert same(np.concatenate(answers), [str(n) for n in range(20)])

"""The HTTP client against a small real server on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving import errors
from multimodal_embedding_serving.client import AsyncClient, Client
from multimodal_embedding_serving.types import Vector, Vectors
from multimodal_embedding_serving.wire import ImageLike, Wire

DIMENSION = 4
Reply = tuple[int, dict[str, str], dict[str, Any]]


def vector_of(content: str) -> Vector:
    """What the small server answers for a text, a URL, or a picture's base64."""
    seed = int.from_bytes(hashlib.sha256(content.encode("utf-8", "replace")).digest()[:4], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype("<f4")
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def on_wire(content: str) -> str:
    return base64.b64encode(vector_of(content).tobytes()).decode()


class SmallServer(ThreadingHTTPServer):
    """Remembers what it was asked; `refusals` are answered first, one per request."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.refusals: list[Reply] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Exchange(BaseHTTPRequestHandler):
    server: SmallServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers: dict[str, dict[str, Any]] = {
            "/models": {"current_model": "M", "available_models": {"F": ["m"]}, "total_models": 1},
            "/model/current": {"model": "F/m", "dimension": DIMENSION},
            "/model/capabilities": {"model": "F/m", "modalities": ["text"]},
        }
        self.answer(200, {}, answers[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body))
        self.server.keys.append(self.headers["authorization"])
        if self.server.refusals:
            self.answer(*self.server.refusals.pop(0))
        elif self.path == "/v1/embeddings":
            data = [{"index": i, "embedding": on_wire(t)} for i, t in enumerate(body["input"])]
            self.answer(200, {}, {"object": "list", "data": data[::-1]})
        else:
            self.answer(200, {}, native(body["input"]))

    def answer(self, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet: the tests look at `asked`."""


def native(source: dict[str, Any]) -> dict[str, Any]:
    if source["type"] == "video_frames":
        return {"embedding": [on_wire(each[each["type"]]) for each in source["video_frames"]]}
    if source["type"].startswith("video"):
        frames = [{"index": 0, "timestamp": 0.0}, {"index": 12, "timestamp": 0.5}]
        return {"embedding": [on_wire("0"), on_wire("12")], "frames": frames}
    return {"embedding": [on_wire(each) for each in source[source["type"]]]}


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with SmallServer() as small:
        thread = threading.Thread(target=small.serve_forever, args=(0.01,))
        thread.start()
        yield small
        small.shutdown()
        thread.join()


@pytest.fixture
def client(server: SmallServer) -> Iterator[Client]:
    with Client(server.url, batch=3) as client:
        yield client


def same(vectors: Vectors, contents: list[str]) -> bool:
    expected = np.stack([vector_of(each) for each in contents])
    return vectors.dtype == np.float32 and np.array_equal(vectors, expected)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def sent_pictures(server: SmallServer) -> list[Image.Image]:
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
def test_a_picture_travels_without_loss(server: SmallServer, client: Client, mode: str) -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 250)
    else:
        picture = Image.fromarray(ramp).convert(mode)
    client.embed_images(picture)
    (sent,) = sent_pictures(server)
    assert np.array_equal(np.asarray(sent.convert(picture.mode)), np.asarray(picture))


def test_a_pictures_orientation_travels_with_it(server: SmallServer, client: Client) -> None:
    picture = Image.new("RGB", (4, 8))
    picture.getexif()[0x0112] = 6
    client.embed_images(picture)
    assert sent_pictures(server)[0].getexif()[0x0112] == 6


def test_an_array_that_is_no_picture_is_refused(client: Client) -> None:
    with pytest.raises(errors.InvalidInput, match="no picture"):
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
    busy = httpx2.Response(429, headers={"retry-after": "7"})
    assert Wire(None, 1, retries=4).pause(busy, 0) == 7


def test_without_a_named_pause_each_pause_is_longer() -> None:
    wire, busy = Wire(None, 1, retries=4), httpx2.Response(503)
    pauses = [wire.pause(busy, attempt) or 0 for attempt in range(4)]
    assert pauses == sorted(pauses)
    assert wire.pause(busy, 4) is None
    assert wire.pause(httpx2.ReadTimeout("late"), 0) is None


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
        (415, {"detail": "m"}, errors.UnrecognisedMedia),
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
    server.refusals = [fine, (400, {}, {"error": {"message": "item 1: too long", "code": None}})]
    with pytest.raises(errors.BadRequest) as caught:
        client.embed_texts([str(n) for n in range(6)])
    assert (caught.value.index, caught.value.message) == (4, "too long")
    server.refusals = [(422, {}, {"detail": "broken", "code": "invalid_input", "index": 2})]
    with pytest.raises(errors.InvalidInput, match="item 2: broken"):
        client.embed_images([png(1), png(2), png(3)])


def test_a_server_that_is_not_there_is_a_typed_error() -> None:
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(errors.RemoteFailed):
        client.current()


async def test_the_async_client_answers_the_same(server: SmallServer) -> None:
    texts = [f"text {n}" for n in range(10)]
    async with AsyncClient(server.url, batch=2, parallel=3) as client:
        assert same(await client.embed_texts(texts), texts)
        pictures = [png(shade) for shade in range(5)]
        encoded = [base64.b64encode(each).decode() for each in pictures]
        assert same(await client.embed_images(pictures), encoded)
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

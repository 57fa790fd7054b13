"""Data URIs by their whole form, and base64 as clients write it."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.media.encoded import decode_base64, media_type_of
from tests.media_files import write_image

PNG = base64.b64encode(write_image("png")).decode()
JPEG = base64.b64encode(write_image("jpeg")).decode()

MEDIA = {
    "a PNG": f"data:image/png;base64,{PNG}",
    "white space before it": f" \r\n\tdata:image/png;base64,{PNG}",
    "white space before the data": f"data:image/png;base64,\n {PNG}",
    "a video": f"data:video/mp4;base64,{PNG}",
    "capitals": f"DATA:Image/PNG;BASE64,{PNG}",
    "parameters": f"data:image/svg+xml;charset=utf-8;name=a.svg;base64,{PNG}",
    "spaces between them": f"data:image/png; charset=x; base64,{PNG}",
    "a vendor's type": f"data:image/vnd.microsoft.icon;base64,{PNG}",
    "lines of base64": f"data:image/png;base64,{PNG[:76]}\n{PNG[76:]}",
    "base64url": "data:image/jpeg;base64,_9j-4AAQSkZJRgABAQ",
    "percent-encoded": f"data:image/jpeg;base64,{quote(JPEG, safe='')}",
    "short data": "data:image/png;base64,iVBORw==",
    "no data": "data:image/png;base64,",
    "damaged further on": f"data:image/png;base64,{PNG[:40]} and so on!",
}
TEXTS = {
    "an Italian date": "Data: 12 maggio 2024, Roma",
    "an event of a stream": 'data: {"id": 7, "delta": "hello"}',
    "a table": "DATA:\tID;NAME;VALUE",
    "a list": "Data:\n- first\n- second",
    "a sentence about a data URI": "data:image/png;base64, is how an inline picture begins.",
    "one of two words": "data:image/png;base64, follows here",
    "its head": "data:image/png;base64",
    "no base64": "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>",
    "another encoding": f"data:image/png;base32,{PNG}",
    "another type": f"data:text/plain;base64,{PNG}",
    "no subtype": f"data:image/;base64,{PNG}",
    "no type": f"data:;base64,{PNG}",
    "words before it": f"see data:image/png;base64,{PNG}",
    "a comma in the head": f"data:image/png,base64,{PNG}",
    "15 characters and a space": "data:image/png;base64,iVBORw0KGgoAAAA NSUhEUg",
}


@pytest.mark.parametrize("name", MEDIA)
def test_a_whole_data_uri_is_media(name: str) -> None:
    expected = "video" if name == "a video" else "image"
    assert media_type_of(MEDIA[name]) == expected


@pytest.mark.parametrize("name", TEXTS)
def test_any_other_string_is_text(name: str) -> None:
    assert media_type_of(TEXTS[name]) is None


@given(st.text(max_size=60))
def test_a_string_with_spaces_in_its_first_data_is_text(words: str) -> None:
    assert media_type_of(f"data:image/png;base64,a b {words}") is None


@pytest.mark.parametrize("filler", [" ", ";", ";a", "a;base64", ",", "\n", ";base64 "])
def test_long_strings_take_no_longer_than_their_length_allows(filler: str) -> None:
    """A backtracking expression would need hours."""
    assert media_type_of("data:image/png" + filler * 300_000) is None
    assert media_type_of(filler * 300_000 + "data:image/png;base64, no no") is None


@given(st.binary(max_size=200), st.booleans(), st.booleans(), st.booleans())
def test_base64_is_read_in_each_alphabet_with_and_without_padding(
    data: bytes, url: bool, padded: bool, broken: bool
) -> None:
    text = (base64.urlsafe_b64encode if url else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    text = "\r\n".join(text[at : at + 7] for at in range(0, len(text), 7)) if broken else text
    assert decode_base64(f"data:image/png;base64,{text}") == data


@pytest.mark.parametrize("text", ["AAAAA", "AA===", "AAAA====", "A=AA", "AAA=AAAA", "äAAA", "AA!A"])
def test_what_is_not_base64_is_invalid(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid base64"):
        decode_base64(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("/data/cat.jpg", "a file path"),
        ("/data/images/cat1", "a file path"),
        ("./cat.png", "a file path"),
        ("../x/cat.png", "a file path"),
        ("~/cat.png", "a file path"),
        ("C:\\photos\\cat.png", "a file path"),
        ("//cdn.example/cat.jpg", "a file path"),
        ("photos/my cat.jpeg", "a file name"),
        ("cat.png", "a file name"),
        ("s3://bucket/cat.jpg", "a URL (s3:)"),
        ("rtsp://camera.example/1", "a URL (rtsp:)"),
        ("file:///data/cat.jpg", "a URL (file:)"),
        ("https://example.com/cat.jpg", "a URL (https:)"),
        ("gs://bucket/cat", "a URL (gs:)"),
        ("blob:https://example.com/1", "a URL (blob:)"),
    ],
)
def test_a_path_or_a_url_is_called_what_it_is(text: str, what: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        decode_base64(text)
    assert raised.value.message.startswith(f"this is {what}, not base64; send base64")


def test_a_jpeg_is_no_path() -> None:
    assert JPEG.startswith("/9j/")
    assert decode_base64(JPEG) == write_image("jpeg")
    assert decode_base64(JPEG[:12]) == write_image("jpeg")[:9]

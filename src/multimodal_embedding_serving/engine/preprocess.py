"""What a tower does to raw items before its graph, and for which of them it need do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from multimodal_embedding_serving.batching.tower import Prepare, Prepared
from multimodal_embedding_serving.engine.cache import Recall
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.image import decode_rgb
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Features


def prepare_texts(transform: TextTransform, recall: Recall | None = None) -> Prepare:
    """What the text tower does to `TextItem` before its graph."""

    def read(words: TextItem) -> str | EmbeddingError:
        try:
            return words.text if isinstance(words.text, str) else transform.decode(words.text)
        except EmbeddingError as error:
            return error

    def prepare(items: Sequence[TextItem]) -> list[Prepared]:
        ready: list[Prepared] = []
        for (role, instruction), words in groupby(
            items, lambda each: (each.role, each.instruction)
        ):
            texts = [read(each) for each in words]
            good = [text for text in texts if isinstance(text, str)]
            done = iter(transform.prepare_many(good, role=role, instruction=instruction))
            ready += [next(done) if isinstance(text, str) else text for text in texts]
        return ready

    return prepare if recall is None else recall_texts(recall, prepare)


def recall_texts(recall: Recall, prepare: Prepare) -> Prepare:
    """Prepare only those `TextItem` whose vectors are not known."""

    def key(words: TextItem) -> bytes:
        told, kind = words.text, type(words.text).__name__
        told = told if isinstance(told, str) else repr(told)
        return recall.key(kind, words.role, words.instruction, told)

    def recalled(items: Sequence[TextItem]) -> list[Prepared]:
        keys = [key(words) for words in items]
        known = [recall.find(key) for key in keys]
        fresh = iter(prepare([item for item, hit in zip(items, known, strict=True) if hit is None]))
        return [
            hit or recall.keeping(next(fresh), key) for key, hit in zip(keys, known, strict=True)
        ]

    return recalled


def prepare_images(
    transform: ImageTransform, media: MediaAccess, recall: Recall | None = None
) -> Prepare:
    """What the image tower does to encoded images and frames before its graph."""

    def prepare_one(item: Any) -> Prepared:
        try:
            source = media.image_source(item)
            key = recall.key(source) if recall and isinstance(source, bytes) else None
            if recall and key and (known := recall.find(key)):
                return known
            with media.budget.share() as reserve:
                image = decode_rgb(
                    source,
                    media.images,
                    min_side=transform.min_side if media.jpeg_decode == "fast" else 0,
                    copied=transform.copies,
                    reserve=reserve,
                )
                row = transform(image)
                del image  # before its share is free
        except EmbeddingError as error:
            return error
        features = Features(row, transform.patches, transform.patches)
        return recall.keeping(features, key) if recall and key else features

    return lambda items: [prepare_one(item) for item in items]

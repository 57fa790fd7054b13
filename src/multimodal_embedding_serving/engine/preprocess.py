"""Preprocessing of a tower's items, which the cache may make unnecessary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from multimodal_embedding_serving.batching.tower import Prepare, Prepared
from multimodal_embedding_serving.engine.cache import TowerCache
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.sampling import DisplayedFrame
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import Role, TextTransform
from multimodal_embedding_serving.types import Features, StageTimer


def time_preparing(prepare: Prepare, on_stage: StageTimer) -> Prepare:
    """The same preprocessing; each call is reported as the stage `decode`."""

    def prepare_timed(items: Sequence[Any]) -> Sequence[Prepared]:
        started = time.perf_counter()
        try:
            return prepare(items)
        finally:
            on_stage("decode", time.perf_counter() - started)

    return prepare_timed


def prepare_texts(transform: TextTransform, cache: TowerCache | None = None) -> Prepare:
    """The preprocessing of the text tower: `TextItem` to token ids."""

    def read(item: TextItem) -> str | EmbeddingError:
        try:
            return item.text if isinstance(item.text, str) else transform.decode(item.text)
        except EmbeddingError as error:
            return error

    def tokenize(
        texts: Sequence[str], role: Role | None, instruction: str | None
    ) -> list[Prepared]:
        try:
            return [*transform.prepare_many(texts, role=role, instruction=instruction)]
        except EmbeddingError as error:  # of one of them: the others are not to blame
            if len(texts) == 1:
                return [error]
            return [each for text in texts for each in tokenize([text], role, instruction)]

    def prepare(items: Sequence[TextItem]) -> list[Prepared]:
        prepared: list[Prepared] = []
        for (role, instruction), group in groupby(
            items, lambda each: (each.role, each.instruction)
        ):
            texts = [read(item) for item in group]
            valid = [text for text in texts if isinstance(text, str)]
            features = iter(tokenize(valid, role, instruction))
            prepared += [next(features) if isinstance(text, str) else text for text in texts]
        return prepared

    return prepare if cache is None else _use_cache(cache, prepare)


def _use_cache(cache: TowerCache, prepare: Prepare) -> Prepare:
    """Preprocess only the texts whose vectors are not in the cache."""

    def key(item: TextItem) -> bytes:
        content, kind = item.text, type(item.text).__name__
        content = content if isinstance(content, str) else repr(content)
        return cache.key(kind, item.role, item.instruction, content)

    def prepare_misses(items: Sequence[TextItem]) -> list[Prepared]:
        keys = [key(item) for item in items]
        hits = [cache.get(key) for key in keys]
        misses = [item for item, hit in zip(items, hits, strict=True) if hit is None]
        prepared = iter(prepare(misses))
        return [
            hit or cache.store_later(next(prepared), key)
            for key, hit in zip(keys, hits, strict=True)
        ]

    return prepare_misses


def prepare_images(
    transform: ImageTransform, media: MediaAccess, cache: TowerCache | None = None
) -> Prepare:
    """The preprocessing of the image tower: encoded images and frames to pixels."""

    def prepare_one(item: Any) -> Prepared:
        try:
            source = media.image_source(item)
            key = cache.key(source) if cache and isinstance(source, bytes) else None
            if cache and key and (hit := cache.get(key)):
                return hit
            with media.budget.share() as reserve:
                image = media.decode_image(
                    source,
                    min_side=transform.min_side,
                    copied=transform.copies,
                    reserve=reserve,
                )
                row = transform(image, item.size if isinstance(item, DisplayedFrame) else None)
                del image  # before its share of the budget is released
        except EmbeddingError as error:
            return error
        features = Features(row, transform.patches, transform.patches)
        return cache.store_later(features, key) if cache and key else features

    return lambda items: [prepare_one(item) for item in items]

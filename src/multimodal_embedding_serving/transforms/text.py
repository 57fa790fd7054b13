"""Text to token ids, by the tokenizer file and the manifest that stand beside a text graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, normalizers

from multimodal_embedding_serving.errors import BundleError, InvalidInput
from multimodal_embedding_serving.types import Features

Role = Literal["query", "document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """The manifest's part of a TextTransform."""

    max_length: int
    """Tokens that a text is cut to, special tokens included."""
    pad_id: int
    fixed_length: bool = False
    """Every row is padded on the right to max_length: the graph attends to all places."""
    lowercase: bool = False
    """Lower-case the text before the tokenizer's own normalisation, character by character."""
    eos_kept: bool = True
    """A text that is cut keeps the special token that the tokenizer appends, in the last place."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Role -> a pattern with {text} and perhaps {instruction}."""
    default_instruction: str | None = None


class TextTransform:
    """Prepares texts. Thread-safe; no str makes it fail."""

    def __init__(self, tokenizer: Path | str, spec: Mapping[str, Any]) -> None:
        """Open a tokenizer.json, or its text; its own truncation and padding are not used.

        Raises BundleError where the manifest's part and the tokenizer contradict each other.
        """
        self.spec = TextSpec(**spec)
        if isinstance(tokenizer, str):
            self._tokenizer = Tokenizer.from_str(tokenizer)
        else:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._suffix = getattr(self._tokenizer.model, "end_of_word_suffix", None)
        self._size = self._tokenizer.get_vocab_size()
        if self.spec.lowercase:
            lower, own = normalizers.Lowercase(), self._tokenizer.normalizer
            self._tokenizer.normalizer = normalizers.Sequence([lower, own] if own else [lower])
        special = len(self._tokenizer.encode("").ids)
        if self.spec.eos_kept and not special:
            raise BundleError("tokenizer.json: the tokenizer appends no special token to keep")
        if self.spec.max_length <= special:
            raise BundleError(f"tokenizer.json: {self.spec.max_length} tokens leave no room")

    @classmethod
    def from_manifest(cls, tokenizer: Path, spec: Mapping[str, Any]) -> TextTransform:
        return cls(tokenizer, spec)

    def to_manifest(self) -> dict[str, Any]:
        return asdict(self.spec)

    def prepare(
        self, text: str, *, role: Role | None = None, instruction: str | None = None
    ) -> Features:
        """One text -> int32 [tokens] ids, cut to max_length, padded only where that is fixed.

        A role whose prompt the model has wraps the text; `instruction` fills the prompt's own.
        """
        return self.prepare_many([text], role=role, instruction=instruction)[0]

    def prepare_many(
        self, texts: Sequence[str], *, role: Role | None = None, instruction: str | None = None
    ) -> list[Features]:
        """The same for texts of one role and instruction."""
        prompt = self.spec.prompts.get(role or "", "{text}")
        if instruction is None:
            instruction = self.spec.default_instruction or ""
        wrapped = [
            mend_surrogates(prompt.format(text=text, instruction=instruction)) for text in texts
        ]
        return [self._cut(each.ids) for each in self._tokenizer.encode_batch_fast(wrapped)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text that token ids of this tokenizer stand for. Raises InvalidInput."""
        for each in ids:
            if not 0 <= each < self._size:
                raise InvalidInput(f"{each} is no token id of this model: 0 to {self._size - 1}")
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.replace(self._suffix, " ").strip() if self._suffix else text

    def _cut(self, ids: list[int]) -> Features:
        spec, length = self.spec, len(ids)
        if length > spec.max_length:
            kept = ids[-1:] if spec.eos_kept else []
            ids = ids[: spec.max_length - len(kept)] + kept
        places = spec.max_length if spec.fixed_length else max(1, len(ids))
        row = np.full(places, spec.pad_id, np.int32)
        row[: len(ids)] = ids
        return Features(row, places, len(ids), truncated=length > spec.max_length)


def mend_surrogates(text: str) -> str:
    """Surrogate pairs joined, lone ones as U+FFFD: what can't be written as UTF-8 can't be read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

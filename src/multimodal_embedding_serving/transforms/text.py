"""Text to token ids, with the tokenizer file and the manifest of a text graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding, Regex, Tokenizer, normalizers

from multimodal_embedding_serving.errors import (
    BundleError,
    EmbeddingError,
    InvalidInput,
    TooLarge,
    native_errors_as,
)
from multimodal_embedding_serving.transforms.tokenizer_check import (
    MAX_ID,
    MAX_TOKENIZER_BYTES,
    check_tokenizer,
)
from multimodal_embedding_serving.transforms.windows import split_windows
from multimodal_embedding_serving.types import Features

Role = Literal["query", "document"]
MAX_GROWN_BYTES, MAX_USUAL_GROWTH = 1 << 24, 4
"""A text may become this many bytes in the tokenizer, or this many times its own."""
NOT_TOKENIZED = "the text could not be tokenized"
MAX_PROMPT_CHARS = 1 << 14
PIECE_CHARS = 4096
"""How much of a long text is normalized at a time to see what becomes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """The part of the manifest that describes a TextTransform."""

    max_length: int
    """Tokens to which a text is truncated, special tokens included."""
    pad_id: int
    fixed_length: bool = False
    """Pad every row to max_length: the graph attends to all positions."""
    padding_side: Literal["right", "left", "file"] = "right"
    """For rows of a fixed length; file: as in tokenizer.json, and right if it has none."""
    lowercase: bool = False
    """Lower-case the text before the tokenizer's own normalization, character by character."""
    eos_kept: bool = True
    """A truncated text keeps the special token that the tokenizer appends, in the last position."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Role -> a pattern with {text} and optionally {instruction}."""
    default_instruction: str | None = None
    clean: Literal["", "siglip", "canonicalize"] = ""
    """What happens to a text before all else: punctuation goes and spaces are joined, as
    transformers' SiglipTokenizer does it; canonicalize: OpenCLIP's way, where `_` is a space."""
    entries: int | None = None
    """Rows of the table of tokens, where the tokenizer has more: those ids have no vector."""
    default_length: int | None = None
    """A limit of the checkpoint's own below max_length; EMBEDDING_MAX_LENGTH sets another."""
    accepted: Sequence[str] = ()
    """Keys of the checkpoint's files that the user accepts although they are not supported."""

    @property
    def length(self) -> int:
        """Tokens that a text is cut to."""
        return min(self.max_length, self.default_length or self.max_length)


class TextTransform:
    """Tokenizes texts. Thread-safe; accepts every str."""

    def __init__(
        self, tokenizer: Path | str, spec: Mapping[str, Any], *, window: int | None = None
    ) -> None:
        """Load a tokenizer.json from its path or its text; its truncation and padding are not used.

        A text of more than `window` tokens is split into windows of that length, up to max_length
        tokens; None: the graph takes any length. Raises BundleError if the manifest and the
        tokenizer contradict each other, or the tokenizer has no bound on time or memory.
        """
        self.spec, self._window = TextSpec(**spec), window
        check_prompts(self.spec.prompts)
        text = (
            tokenizer if isinstance(tokenizer, str) else read_tokenizer_file(tokenizer, BundleError)
        )
        self._bounds = check_tokenizer(text, BundleError)
        with native_errors_as(BundleError, "tokenizer.json"):
            self._tokenizer = Tokenizer.from_str(text)
            self._configure()

    def _configure(self) -> None:
        direction = (self._tokenizer.padding or {}).get("direction", "right")
        side = direction if self.spec.padding_side == "file" else self.spec.padding_side
        self._padded_left = side == "left"
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._suffix = getattr(self._tokenizer.model, "end_of_word_suffix", None)
        self._size = self._tokenizer.get_vocab_size()
        first: list[normalizers.Normalizer] = (
            [normalizers.Lowercase()] if self.spec.lowercase else []
        )
        first += cleaning(self.spec.clean)
        if first:
            own = self._tokenizer.normalizer
            self._tokenizer.normalizer = normalizers.Sequence([*first, own] if own else first)
        ids = self._tokenizer.encode("").ids
        if max(ids, default=0) > MAX_ID:
            raise BundleError(f"tokenizer.json appends the id {max(ids)}; allowed: 0 to {MAX_ID}")
        special = len(ids)
        if self.spec.eos_kept and not special:
            raise BundleError("tokenizer.json appends no special token to keep (eos_kept)")
        if self.spec.length <= special:
            raise BundleError(
                f"tokenizer.json: max_length {self.spec.length} leaves no room for text beside "
                f"{special} special tokens"
            )

    def prepare(
        self, text: str, *, role: Role | None = None, instruction: str | None = None
    ) -> Features:
        """One text -> int32 [tokens] ids, truncated to max_length, padded only if fixed_length.

        If the model has a prompt for `role`, it wraps the text; `instruction` replaces the default.
        """
        return self.prepare_many([text], role=role, instruction=instruction)[0]

    def prepare_many(
        self, texts: Sequence[str], *, role: Role | None = None, instruction: str | None = None
    ) -> list[Features]:
        """`prepare` for several texts with the same role and instruction."""
        prompt = self.spec.prompts.get(role or "", "{text}")
        if instruction is None:
            instruction = self.spec.default_instruction or ""
        prompts = [
            repair_surrogates(prompt.format(text=text, instruction=instruction)) for text in texts
        ]
        for each in prompts:
            self._check_growth(each)
        with native_errors_as(InvalidInput, NOT_TOKENIZED):
            encoded = self._tokenizer.encode_batch_fast(prompts)
        self._check_entries(encoded)
        if self._window is None or all(len(each.ids) <= self._window for each in encoded):
            return [self._truncate(each.ids) for each in encoded]
        before = repair_surrogates(prompt.partition("{text}")[0].format(instruction=instruction))
        opening = self._tokenizer.encode(before, add_special_tokens=False).ids
        return [self._in_windows(each.ids, opening, self._window) for each in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids of this tokenizer. Raises InvalidInput for an unknown id."""
        for each in ids:
            if not 0 <= each < self._size:
                raise InvalidInput(
                    f"{each} is not a token id of this model (0 to {self._size - 1})"
                )
        with native_errors_as(InvalidInput, "the token ids could not be decoded"):
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.replace(self._suffix, " ").strip() if self._suffix else text

    def _check_growth(self, text: str) -> None:
        """Normalize a long text piece by piece, if it could become too large as a whole.

        Raises TooLarge.
        """
        bounds, normalizer = self._bounds, self._tokenizer.normalizer
        if 4 * len(text) * bounds.growth * bounds.split_growth <= MAX_GROWN_BYTES:
            return
        size = len(text.encode())
        chain = isinstance(normalizer, normalizers.Sequence)  # the library flattens those in it
        steps = list(normalizer) if chain else [normalizer] if normalizer else []
        grown = [size] + [0] * len(steps)
        for start in range(0, len(text), PIECE_CHARS):
            piece = text[start : start + PIECE_CHARS]
            for number, step in enumerate(steps, 1):
                with native_errors_as(InvalidInput, NOT_TOKENIZED):
                    piece = step.normalize_str(piece)
                grown[number] += len(piece.encode())
            limit = max(MAX_GROWN_BYTES, MAX_USUAL_GROWTH * bounds.split_growth * size)
            if max(grown) * bounds.split_growth > limit:
                raise TooLarge(
                    f"this model's tokenizer makes more than {limit:.0f} bytes of the text's "
                    f"{size}; send a shorter text"
                )

    def _check_entries(self, encoded: Sequence[Encoding]) -> None:
        entries = self.spec.entries
        for each in encoded if entries is not None else ():
            if (largest := max(each.ids, default=0)) >= (entries or 0):
                raise InvalidInput(
                    f"the text contains the token {self._tokenizer.id_to_token(largest)!r} (id "
                    f"{largest}), which this model has no embedding for: it has {entries}"
                )

    def _in_windows(self, ids: list[int], prompt: list[int], window: int) -> Features:
        """Split a text into windows; truncate it if its prompt takes more than half of a window."""
        windows = self.spec.eos_kept and len(prompt) <= window // 2
        max_length = self.spec.length
        whole = self._truncate(ids, max_length if windows else min(max_length, window))
        if whole.cost <= window:
            return whole
        first, *others = (
            Features(np.array(each.ids, np.int32), len(each.ids), len(each.ids), covers=each.covers)
            for each in split_windows(whole.row.tolist(), prompt, window)
        )
        return replace(first, tokens=whole.tokens, truncated=whole.truncated, more=tuple(others))

    def _truncate(self, ids: list[int], max_length: int | None = None) -> Features:
        spec, length, max_length = self.spec, len(ids), max_length or self.spec.length
        if length > max_length:
            end = ids[-1:] if spec.eos_kept else []
            ids = ids[: max_length - len(end)] + end
        places = spec.max_length if spec.fixed_length else max(1, len(ids))
        row = np.full(places, spec.pad_id, np.int32)
        start = places - len(ids) if self._padded_left else 0
        row[start : start + len(ids)] = ids
        return Features(row, places, len(ids), truncated=length > max_length)


def check_prompts(prompts: Mapping[str, str]) -> None:
    """A prompt holds {text} once, perhaps {instruction}, and no other field: a width, an attribute
    or a repetition would let a manifest make gigabytes of a word. Raises BundleError."""
    for role, prompt in prompts.items():
        try:
            fields = [each[1:] for each in Formatter().parse(prompt) if each[1] is not None]
        except ValueError:
            fields = []
        names = [name for name, *format_ in fields if format_ == ["", None]]
        fits = len(names) == len(fields) and names.count("text") == 1
        fits = fits and names.count("instruction") == len(names) - 1 <= 1
        if not fits or len(prompt) > MAX_PROMPT_CHARS:
            raise BundleError(
                f"prompts.{ascii(role)[1:-1][:40]} must be a pattern of at most {MAX_PROMPT_CHARS} "
                "characters with {text} once, and {instruction} at most once"
            )


def read_tokenizer_file(path: Path, error: type[EmbeddingError]) -> str:
    """The text of a tokenizer.json. Raises `error` where it is too large or can't be read."""
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise error(f"tokenizer.json is larger than {MAX_TOKENIZER_BYTES >> 20} MB")
        return path.read_text("utf-8")
    except OSError as reason:
        raise error(f"tokenizer.json: {reason.strerror}") from None
    except UnicodeDecodeError:
        raise error("tokenizer.json is not UTF-8 text") from None


PUNCTUATION = Regex(r"[!-/:-@\[-`{-~]")
"""Of ASCII: Python's string.punctuation."""


def cleaning(how: str) -> list[normalizers.Normalizer]:
    """What takes punctuation out of a text and joins its spaces; tokens that were added to the
    vocabulary are matched all the same, as in transformers. Nothing where `how` is empty."""
    if not how:
        return []
    underscore = [normalizers.Replace("_", " ")] if how == "canonicalize" else []
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    return [*underscore, normalizers.Replace(PUNCTUATION, ""), spaces, normalizers.Strip()]


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone ones by U+FFFD: the tokenizer takes valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

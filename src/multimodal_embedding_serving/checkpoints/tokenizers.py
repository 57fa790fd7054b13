"""A tokenizer.json for the repositories that only hold its parts.

Sources: BERT (Devlin et al. 2018, its WordPiece), CLIP (Radford et al. 2021, its byte-level BPE);
the pieces are put together as in the tokenizer.json files of the repositories that have one.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from multimodal_embedding_serving.errors import CheckpointError

PAD, UNKNOWN, FIRST, LAST, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_VOCABULARY_BYTES = 1 << 26
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word: a clitic, letters, one digit, or anything else but space."""


def wordpiece_from_vocab(path: Path, *, lowercase: bool = True) -> Tokenizer:
    """BERT's tokenizer: vocab.txt (a token a line) -> [CLS] … [SEP], Chinese characters apart.

    Raises CheckpointError naming the file and the token that it lacks.
    """
    tokens = _read(path).split("\n")
    vocab = {token.rstrip("\r"): number for number, token in enumerate(tokens) if token}
    special = (PAD, UNKNOWN, FIRST, LAST, MASK)
    _require(vocab, special, path)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}", special_tokens=[(each, vocab[each]) for each in (FIRST, LAST)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def clip_bpe_from_vocab(vocab: Path, merges: Path) -> Tokenizer:
    """CLIP's tokenizer: vocab.json + merges.txt -> start … end, lower-cased.

    Raises CheckpointError naming the file that is malformed or lacks a token.
    """
    try:
        ids = json.loads(_read(vocab))
    except ValueError as error:
        raise CheckpointError(f"{vocab.name} is not valid JSON: {error}") from None
    if not isinstance(ids, dict) or not all(type(each) is int for each in ids.values()):
        raise CheckpointError(f"{vocab.name} must map tokens to ids")
    _require(ids, (START, END), vocab)
    lines = _read(merges).split("\n")
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    for pair in pairs:
        if len(pair) != 2:
            raise CheckpointError(f"{merges.name}: {' '.join(pair)[:40]!r} is not a pair of tokens")
        _require(ids, (*pair, "".join(pair)), vocab)
    model = models.BPE(
        ids, [(left, right) for left, right in pairs],
        unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>",
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (START, END)])
    return tokenizer


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise CheckpointError(f"{path.name} is larger than {MAX_VOCABULARY_BYTES >> 20} MB")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} is not UTF-8 text: {error.reason}") from None


def _require(vocab: dict[str, int], tokens: tuple[str, ...], path: Path) -> None:
    for token in tokens:
        if token not in vocab:
            raise CheckpointError(f"{path.name} lacks the token {token!r}")

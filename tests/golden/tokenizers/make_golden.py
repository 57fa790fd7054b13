"""Makes the files beside it: small vocabularies, texts, and the ids that upstream gives them.

    python -m venv oracle && oracle/bin/pip install transformers==4.57.3 ftfy==6.3.1
    oracle/bin/python tests/golden/tokenizers/make_golden.py

The library's tokenizers in plain Python must agree with its fast ones on every text, but that the
plain one for CLIP repairs texts with ftfy, which no tokenizer.json does: CONTROL is what differs.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

HERE = Path(__file__).parent
LENGTH = 16
CONTROL = "control \x01\x07 bytes and \x00 nothing"
CORPUS = """
a photo of a cat sleeping on a red sofa near the window
two dogs are running along the beach while the waves come in
the stock market fell sharply today after the bank's report
an X-ray of a broken hand, side view; it's 42 years old, isn't it?
Café crème brûlée naïve façade São Tomé ÄÖÜ straße
一只猫睡在沙发上 两只狗在海滩上奔跑 上海的夜景照片
we'll see what they've done: I'm sure you'd like 100 % of them, they're 3.14 times better!
un gato duerme en el sofá rojo cerca de la ventana
""".split("\n")
TEXTS = [
    "",
    "a photo of a cat",
    "  A   PHOTO\tof\na Cat  ",
    "an unseenword's zebra, isn't it? we'll see 42 of 1000!",
    "Café crème brûlée, ÄÖÜ straße",
    "一只猫睡在沙发上",
    "猫 and a dog on 海滩",
    "emoji 😀 and \u200bzero width",
    CONTROL,
    "x" * 150,
    "the waves come in " * 10,
    "[MASK] of a <|endoftext|> dog",
]


def train_wordpiece() -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    )
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (HERE / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), "utf-8")


def train_clip() -> None:
    """vocab.json and merges.txt in CLIP's order: 256 bytes, 256 with </w>, merges, start, end."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=700,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = [*alphabet, *[f"{each}</w>" for each in alphabet], *["".join(pair) for pair in merges]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (HERE / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", "utf-8")
    lines = ["#version: 0.2", *[" ".join(pair) for pair in merges]]
    (HERE / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def train_gemma() -> None:
    """In the form of SigLIP2's tokenizer.json: bytes where the vocabulary ends, <eos> appended."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special += [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        [line.lower() for line in CORPUS],
        trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [each for each in state["added_tokens"] if each["id"] < 4]
    (HERE / "gemma.json").write_text(json.dumps(state, ensure_ascii=False) + "\n", "utf-8")


def ids_of(tokenizer: Any, texts: list[str], **options: Any) -> list[list[int]]:
    return [tokenizer(text, **options)["input_ids"] for text in texts]


def main() -> None:
    library: Any = importlib.import_module("transformers")
    train_wordpiece()
    train_clip()
    train_gemma()
    answers: dict[str, Any] = {"transformers": library.__version__, "length": LENGTH}
    cut: dict[str, Any] = {"truncation": True, "max_length": LENGTH}
    files = {"vocab_file": str(HERE / "vocab.txt")}
    for name, lowercase in (("wordpiece", True), ("wordpiece_cased", False)):
        slow = library.BertTokenizer(**files, do_lower_case=lowercase)
        fast = library.BertTokenizerFast(**files, do_lower_case=lowercase)
        answers[name] = ids_of(fast, TEXTS, **cut)
        assert answers[name] == ids_of(slow, TEXTS, **cut), name
    files = {"vocab_file": str(HERE / "vocab.json"), "merges_file": str(HERE / "merges.txt")}
    slow, fast = library.CLIPTokenizer(**files), library.CLIPTokenizerFast(**files)
    answers["clip"] = ids_of(fast, TEXTS, **cut)
    for text, ids in zip(TEXTS, answers["clip"], strict=True):
        assert text == CONTROL or ids == slow(text, **cut)["input_ids"], text
    gemma = library.PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "gemma.json"),
        pad_token="<pad>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
    )
    lower = [text.lower() for text in TEXTS]
    fixed = {"padding": "max_length", "padding_side": "right"}
    answers["gemma_fixed"] = ids_of(gemma, lower, **cut, **fixed)
    answers["texts"] = TEXTS
    lines = [f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]
    (HERE / "expected.json").write_text("{" + ",\n".join(lines) + "}\n", "utf-8")


if __name__ == "__main__":
    main()

"""sentence-transformers behind the minimal door: `python sentences.py MODEL PORT`."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer
from service import arguments, serve

folder, port = arguments()
# float32 as in all other systems; it would take the bfloat16 of a checkpoint as it is.
model = SentenceTransformer(folder, device="cpu").float()


def main() -> None:
    serve(
        port,
        lambda texts: model.encode(list(texts), normalize_embeddings=True),
        lambda pictures: model.encode(list(pictures), normalize_embeddings=True),
    )


if __name__ == "__main__":
    main()

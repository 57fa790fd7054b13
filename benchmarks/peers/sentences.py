"""sentence-transformers behind the minimal HTTP server: `python sentences.py MODEL PORT`."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer
from service import arguments, serve

folder, port = arguments()
# float32 as in all other systems; by default it would use the bfloat16 of the checkpoint.
model = SentenceTransformer(folder, device="cpu").float()


def main() -> None:
    serve(
        port,
        lambda texts: model.encode(list(texts), normalize_embeddings=True),
        lambda images: model.encode(list(images), normalize_embeddings=True),
    )


if __name__ == "__main__":
    main()

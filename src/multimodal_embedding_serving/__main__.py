"""`python -m multimodal_embedding_serving` runs `mmes`."""

from multimodal_embedding_serving.cli import main

main()

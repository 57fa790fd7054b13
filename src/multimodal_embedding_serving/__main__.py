"""`python -m multimodal_embedding_serving` is `mmes`."""

from multimodal_embedding_serving.cli import main

main()

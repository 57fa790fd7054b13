"""From a model's name to a bundle: resolve, read the checkpoint, build, check, store."""

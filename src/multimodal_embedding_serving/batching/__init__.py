"""One graph's queue, its batches, and the tower that feeds it."""

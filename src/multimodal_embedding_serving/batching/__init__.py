"""The queue and batches of one graph, and the tower that feeds them."""

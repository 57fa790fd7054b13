"""Converted models: a folder of graphs that describes itself, and the archive it travels in."""

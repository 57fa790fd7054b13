"""Logs, metrics, traces, progress bars, memory, and the context of a request."""

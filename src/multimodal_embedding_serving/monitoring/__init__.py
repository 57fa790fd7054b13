"""Logs, metrics, traces, progress bars, memory, and the request context."""

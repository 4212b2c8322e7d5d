"""The data that crosses a boundary: HTTP, SSE, JSON-RPC, the configuration file, the catalogs.

Decides what a valid message looks like and nothing else. Never does I/O, never reads a clock, and imports only the
standard library and msgspec, so that every other package may depend on it.
"""

"""The catalogs on disk: which models and which engines this machine has.

Decides how an index is written so that a killed writer, a second writer or a full disk cannot harm it, and what is done
about one that is harmed all the same. Never decides what a model or an engine is good for, never fetches anything, and
has no clock: callers pass ``now_ms``.
"""

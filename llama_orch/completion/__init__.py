"""Completion for shells: what may come next on a command line, with the names that this daemon knows.

Decides that a Tab never costs more than a moment and never shows an error. ``grammar`` decides what fits, ``reading``
takes the grammar from the commands themselves, ``names`` asks for pools, models and tasks, ``scripts`` are the shells'
halves.
"""

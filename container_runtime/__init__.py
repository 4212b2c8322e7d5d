"""Runs engines in containers, without deciding which program does it.

Decides what a container of an engine may be (``spec``), what may be asked of a runtime (``base``), and how it fails
(``errors``). Never knows an engine or a model.
"""

"""The HTTP face of orchestratord.

Decides how values become requests and responses. Never decides about a task: the handlers call the orchestrator and
raise what it raises.
"""

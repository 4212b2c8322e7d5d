"""How each engine is spoken to: one protocol, one module per engine, one shared HTTP client.

Decides how a generation is asked for and how its answer is read. Never queues, retries a generation, or chooses an
engine: orchestratord does.
"""

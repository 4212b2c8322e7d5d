"""Prepares the engine of a pool: finds or makes it, proves that it runs, and says how it is started.

Decides which engine a pool gets and with which arguments. Never starts an engine for good, never speaks to a running
one, never fetches a model: pool-managerd, the adapters and model_provisioner do. Read it in this order: ``base``,
``plan``, ``registry``, ``providers``, ``flags``.
"""

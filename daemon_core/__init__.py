"""What a program of llama-orch needs from its host: paths, the configuration file, the token, logs, systemd, signals.

Decides how a daemon starts and stops, and how its mistakes in configuration are told. Never decides what a daemon does:
it knows no task, no pool and no engine.
"""

"""Gets models onto this machine's disk and says what they are.

Decides what a model reference means, what a GGUF file says of itself, and whether a model may be used. Never loads a
model and knows no engine. Read it in this order: ``reference``, ``gguf``, ``digest``, ``provisioner``.
"""

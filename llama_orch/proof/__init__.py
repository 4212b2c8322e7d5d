"""All that shows how an answer came about, in one file that can be checked without a daemon.

Decides what belongs in it and what makes it valid. Never takes a secret in.
"""

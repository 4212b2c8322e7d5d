"""What the daemons and the engines have said: from the user's journal, or from the files of the pools.

Decides what is asked for and how a line reads. Never writes a log.
"""

"""How fast the relay is, measured beside what it is compared with, in one run.

Nothing here is asserted: machines are noisy, so only ratios of figures from the same run mean something.
"""

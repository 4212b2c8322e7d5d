"""Whole lives of the scheduler on a clock that jumps, with the rules checked after everything that happens."""

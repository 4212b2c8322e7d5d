"""One module per engine: the bytes that it reads and writes, for the one engine core behind them all."""

"""One module for each way of loading the systems. ``measure`` adds one round to the figures."""

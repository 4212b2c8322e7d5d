"""One module per way in which an engine comes to a pool. ``registry.provider_for`` chooses among them."""

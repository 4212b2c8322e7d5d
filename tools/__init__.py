"""What `make check` and `make trace` run; never shipped."""

"""pool-managerd: supervises one engine per pool, proves that it is ready, and tells orchestratord.

It has no network port: it serves JSON-RPC over a Unix socket. It never speaks an engine's API beyond the health and
generation probes that the provisioner handed it, and it never imports an adapter.
"""

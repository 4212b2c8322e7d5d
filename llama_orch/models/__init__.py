"""The models of a machine, as ``llama-orch models`` sees them: this one's as files, another one's over HTTP.

Decides which of the two is meant, and how either is put into words. Never fetches, reads or catalogs anything itself.
"""

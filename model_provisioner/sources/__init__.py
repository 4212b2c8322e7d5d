"""Where models are fetched from: one module per scheme.

Decides for each scheme what a reference comes to. Never fetches a model's bytes: ``model_provisioner.transfer`` does.
"""

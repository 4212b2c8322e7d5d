"""What the facts of a machine mean, a module per check: values in, results out."""

"""What is measured: the engine itself, and what stands before it. Each is started once for all rounds."""

"""One module per command. Each decides what it asks for and how the answer is shown."""

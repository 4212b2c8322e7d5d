"""Everything dies, at any moment, and is started again: is a task lost, doubled, or a token different?"""

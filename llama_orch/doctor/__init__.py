"""What must hold on this machine before anything works: a file per check, and what its facts mean beside it.

``checks`` gather facts, ``judge`` says what they mean, ``examine`` runs them. Never mends anything: it says what does.
"""

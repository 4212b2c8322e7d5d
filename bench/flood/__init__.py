"""More work than two replicas can do at once, clients of every kind, and engines that die: is anything lost?"""

"""An answer is asked again, and the two are compared.

Decides what is asked, where, and what the comparison shows. Never changes what was recorded.
"""

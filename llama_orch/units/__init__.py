"""The units of the user's own service manager: written, compared, taken away, and looked at.

Decides what is ours and what is somebody else's. ``files`` and ``state`` are the decisions, ``folder`` and ``manager``
the hands. What the units say is not decided here: they are the files in ``systemd/``.
"""

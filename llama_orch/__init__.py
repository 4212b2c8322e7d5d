"""llama-orch: the operator's command line.

Decides how results and mistakes are shown, and nothing about tasks, pools or engines: it asks the daemons over their
public HTTP interface, and starts them as programs. Where no daemon need run (``init``, ``doctor``) it uses the
libraries below them. Read it from ``cli``, then ``commands``, then ``client``.
"""

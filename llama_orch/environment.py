"""The variables of the environment that say how a daemon is reached. Decides their names, and loads nothing."""

CA_VARIABLE = "LLORCH_CA_FILE"

"""What every test has; a suite's own fixtures stand in its own conftest."""

pytest_plugins = [
    "pytester",  # the plugins below are tested too
    "tests.plugins.ahead",
    "tests.plugins.interrupts",
    "tests.plugins.leftovers",
    "tests.plugins.needs",
    "tests.plugins.requirements",
    "tests.plugins.told",
    "tests.plugins.traps",
    "tests.plugins.failures",  # imports the one before
]

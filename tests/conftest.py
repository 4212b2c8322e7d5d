"""What every test has; a suite's own fixtures stand in its own conftest."""

pytest_plugins = [
    "tests.plugins.leftovers",
    "tests.plugins.needs",
    "tests.plugins.requirements",
]

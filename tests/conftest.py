"""What every test has; a suite's own fixtures stand in its own conftest."""

from hypothesis import HealthCheck, settings

# As in CI, where hypothesis decides so by itself: how long an example takes is the machine's affair.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

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

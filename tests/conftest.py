"""Loads the fixture modules; every fixture lives in ``tests/fixtures``."""

pytest_plugins = [
    "tests.fixtures.servers",
    "tests.fixtures.database",
    "tests.fixtures.api",
    "tests.fixtures.storage",
    "tests.fixtures.fine_tuning",
    "tests.fixtures.tiny_models",
    "tests.fixtures.endpoints",
    "tests.fixtures.browser",
]

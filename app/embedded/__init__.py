"""Real PostgreSQL and Valkey servers for the default installation and the tests, supervised by us.

Everything here needs the standard library, psycopg and redis only. Production does not use this package: DATABASE_URL,
BROKER_URL and STORAGE_URL each switch their part off (docs/operations.md).
"""

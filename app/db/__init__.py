"""Postgres: declarative base, sessions, and one ORM class per file. No queries and no rules live here."""

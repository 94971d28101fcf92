"""The base model: import, registration facts, loading; and the adapter on it."""

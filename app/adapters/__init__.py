"""Finished adapters: list, look at, download, delete."""

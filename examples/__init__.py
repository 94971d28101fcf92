"""Example datasets."""

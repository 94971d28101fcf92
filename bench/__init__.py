"""Measurements. Each is a ratio against an opponent in the same run."""

"""Uploaded datasets and result files."""

"""Rows: their shapes, how a file of them is read and checked, and how they become tokens."""

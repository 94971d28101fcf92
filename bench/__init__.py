"""Measurements of the product that are no tests: ratios against an opponent in the same run, and accuracy studies."""

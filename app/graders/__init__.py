"""Graders tried out on one response, and checked, without a job."""

"""Speed of the API on one core, against a constant endpoint under the same server in the same run: `make bench-api`."""

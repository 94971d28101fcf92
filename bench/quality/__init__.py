"""The study of accuracy with few rows: NLFT against supervised fine-tuning. See README.md."""

from worker.training import environment  # noqa: F401 - must come before torch

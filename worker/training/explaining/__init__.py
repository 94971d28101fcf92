"""Explains a model under training: saliency records of single rows, and which rows are followed through a run."""

from worker.training.explaining.explanation import Measured, explain, measure, weigh

__all__ = ["Measured", "explain", "measure", "weigh"]

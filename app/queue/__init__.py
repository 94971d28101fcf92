"""Hints to workers. Postgres holds the queue; what travels here may be lost, doubled or late without harm."""

from app.queue.job_queue import QUEUE_NAME, RUN_JOB, JobQueue, broker_options

__all__ = ["QUEUE_NAME", "RUN_JOB", "JobQueue", "broker_options"]

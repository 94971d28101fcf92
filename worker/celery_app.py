"""The Celery app of the workers: a hint arrives, a thread wakes; every guarantee comes from the database.

Early acknowledgement, no prefetching, no results, no time limits, no revocation: see docs/architecture.md.
"""

from celery import Celery

from app.core.settings import get_settings
from app.queue import QUEUE_NAME, broker_options

celery_app = Celery("nlft-worker", broker=get_settings().broker_url.get_secret_value(), include=["worker.tasks"])
celery_app.conf.update(
    worker_pool="threads",
    worker_concurrency=get_settings().worker_slots,
    worker_disable_prefetch=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    task_acks_late=False,
    task_ignore_result=True,
    task_default_queue=QUEUE_NAME,
    task_serializer="json",
    accept_content=["json"],
    broker_connection_max_retries=None,
    broker_connection_retry_on_startup=True,
    broker_transport_options=broker_options(read_seconds=10, connect_seconds=5),
)

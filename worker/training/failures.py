"""What the owner of a job may read about an error that nobody foresaw."""

from worker.training.engine.memory import is_out_of_memory
from worker.training.errors import DeviceOutOfMemoryError, TrainingError


def explain(error: Exception) -> TrainingError:
    """Return ``error`` as one that can be told: what it says itself may hold rows or paths."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
        return DeviceOutOfMemoryError(
            "a micro-batch does not fit the device; lower batch_size or max_seq_length, or use a smaller base model"
        )
    return TrainingError("training failed unexpectedly; the worker's log has the details")

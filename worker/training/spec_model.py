"""Base of everything a user writes into a job."""

from pydantic import BaseModel, ConfigDict


class SpecModel(BaseModel):
    """Base of everything a user writes into a job: unknown fields are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

"""Wire objects of models."""

from typing import Literal

from app.core.schemas import Schema, UnixTime


class Model(Schema):
    """An OpenAI model object. Base models are owned by ``system``, tuned ones by their project."""

    id: str
    object: Literal["model"] = "model"
    created: UnixTime
    owned_by: str


class ModelList(Schema):
    """All models at once; the OpenAI list of models has no pages."""

    object: Literal["list"] = "list"
    data: list[Model]

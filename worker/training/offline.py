"""Importing this module before transformers keeps the process off model hubs: weights come from local folders only."""

import os
from collections.abc import Mapping
from types import MappingProxyType

OFFLINE_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

os.environ.update(OFFLINE_ENVIRONMENT)

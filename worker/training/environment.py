"""What the trainer process must have in its environment before torch and transformers are imported; set by importing.

Off the hubs: weights come from local folders only. Threads that wait sleep instead of spinning: a trainer shares its
cores with the service, and spinning threads were measured to triple the CPU time of a step on two busy cores.
"""

import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""A trainer that trains nothing: a real process that speaks the real protocol and does what its spec's script says.

Its "weights" are a hash chain over the steps, so a resumed run ends with the same bytes as an uninterrupted one only if
it went on from the right state. Keys of ``hyperparameters``: steps, step_seconds, checkpoint_every, environment (the
folder to note it in), and for mischief exit, error, signal, silent_from, deaf, grandchild, noise_bytes, garbage,
big_line, bad_output, slow_start.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from worker.training.events import (
    CANCEL,
    CONTROL_FD,
    EVENTS_FD,
    STOP,
    CheckpointEvent,
    ErrorEvent,
    Event,
    MetricsEvent,
    PhaseEvent,
    ResultEvent,
    SettingsEvent,
    encode,
)
from worker.training.standby import await_job

WORKSPACE = await_job(Path(sys.argv[2]), os.environ) if sys.argv[1] == "--stand-by" else Path(sys.argv[1])
SCRIPT: dict[str, Any] = json.loads((WORKSPACE / "spec.json").read_text())["hyperparameters"]
RANK = os.environ.get("RANK", "")
EVENTS = int(os.environ.get(EVENTS_FD, "-1"))
asked: list[bytes] = []


def emit(event: Event) -> None:
    os.write(EVENTS, encode(event))


def listen() -> None:
    control = os.fdopen(int(os.environ[CONTROL_FD]), "rb")
    for line in control:
        asked.append(line)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def tell_settings() -> None:
    if "settings" in SCRIPT:
        emit(SettingsEvent(**SCRIPT["settings"]))


def note_environment() -> None:
    if "environment" in SCRIPT:
        (Path(SCRIPT["environment"]) / f"environment{RANK}.json").write_text(json.dumps(dict(os.environ)))


def misbehave() -> None:
    note_environment()
    if SCRIPT.get("grandchild"):
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (WORKSPACE.parent / "grandchild.pid").write_text(str(grandchild.pid))
    sys.stdout.write("x" * SCRIPT.get("noise_bytes", 0) + "\nlast words\n")
    sys.stdout.flush()
    os.write(EVENTS, b"no event\n" * SCRIPT.get("garbage", 0))
    if SCRIPT.get("big_line"):
        os.write(EVENTS, b"y" * SCRIPT["big_line"] + b"\n")


def end_as_scripted() -> None:
    if "error" in SCRIPT:
        emit(ErrorEvent(**SCRIPT["error"]))
    if "signal" in SCRIPT:
        os.kill(os.getpid(), SCRIPT["signal"])
    if "exit" in SCRIPT:
        sys.exit(SCRIPT["exit"])


def save_checkpoint(step: int, state: bytes) -> None:
    folder = WORKSPACE / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step, "state": state.hex()}))
    (folder / "manifest.json").write_text(json.dumps({"step": step}))
    relative = folder.relative_to(WORKSPACE).as_posix()
    emit(CheckpointEvent(step=step, path=relative, metrics={"train_loss": 1.0 / step}))


def load_checkpoint() -> tuple[int, bytes]:
    resume = WORKSPACE / "resume" / "state.json"
    if not resume.exists():
        return 0, b"\x00" * 32
    saved = json.loads(resume.read_text())
    return saved["step"], bytes.fromhex(saved["state"])


def take_steps(step: int, state: bytes) -> bytes:
    total = SCRIPT.get("steps", 4)
    while step < total:
        if SCRIPT.get("silent_from") == step:
            time.sleep(600)
        time.sleep(SCRIPT.get("step_seconds", 0.01))
        step += 1
        state = hashlib.sha256(state + step.to_bytes(4, "big")).digest()
        emit(
            MetricsEvent(
                step=step,
                total_steps=total,
                epoch=step / total,
                train_loss=1.0 / step,
                train_mean_token_accuracy=0.5,
                learning_rate=1e-4,
                grad_norm=1.0,
                tokens=10,
                seconds=0.1,
            )
        )
        if step % SCRIPT.get("checkpoint_every", 1000) == 0:
            save_checkpoint(step, state)
        answer_to_parent(step, state)
    return state


def answer_to_parent(step: int, state: bytes) -> None:
    if SCRIPT.get("deaf"):
        return
    if CANCEL in asked:
        sys.exit(14)
    if STOP in asked:
        if step % SCRIPT.get("checkpoint_every", 1000) != 0:
            save_checkpoint(step, state)
        sys.exit(13)


def save_outputs(state: bytes) -> None:
    outputs = WORKSPACE / "outputs"
    outputs.mkdir(exist_ok=True)
    name = "base_model.model.layers.0.q_proj"
    shapes = {f"{name}.lora_A.weight": [2, 2], f"{name}.lora_B.weight": [2, 2]}
    header = {
        key: {"dtype": "F32", "shape": shape, "data_offsets": [16 * index, 16 * index + 16]}
        for index, (key, shape) in enumerate(shapes.items())
    }
    packed = json.dumps(header).encode()
    weights = len(packed).to_bytes(8, "little") + packed + state
    (outputs / "adapter_model.safetensors").write_bytes(weights[:-4] if SCRIPT.get("bad_output") else weights)
    (outputs / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    (outputs / "metrics.csv").write_text("step,train_loss\n1,1.0\n")
    (outputs / "notes.exe").write_text("not on the list")


def main() -> None:
    if EVENTS < 0:  # of several processes, one that speaks to nobody
        note_environment()
        return
    threading.Thread(target=listen, daemon=True).start()
    time.sleep(SCRIPT.get("slow_start", 0))
    misbehave()
    end_as_scripted()
    tell_settings()
    emit(PhaseEvent(phase="training"))
    state = take_steps(*load_checkpoint())
    emit(PhaseEvent(phase="saving"))
    save_outputs(state)
    taken = {"seconds": 2.5}
    emit(ResultEvent(trained_tokens=40, steps=SCRIPT.get("steps", 4), metrics={"train_loss": 0.25}, usage=taken))


if __name__ == "__main__":
    main()

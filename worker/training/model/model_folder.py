"""What a base model folder holds, told from its files alone: no torch, no transformers, nothing executed.

A folder is a Hugging Face model in safetensors. Its digest pins every file that decides what the model computes.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.training.errors import BaseModelError

DIGEST_CACHE_FILE = ".file-digests.json"

_MODEL_FILE = re.compile(
    r".*\.safetensors(\.index\.json)?|(generation_)?config\.json|tokenizer.*\.json|tokenizer\.model|vocab\.(json|txt)"
    r"|merges\.txt|added_tokens\.json|special_tokens_map\.json|chat_template\.(jinja|json)|additional_chat_templates/.*\.jinja"
)
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a registration records.

    Attributes:
        path: Absolute path of the folder.
        digest: See ``model_digest``.
        architecture: transformers class, for example ``LlamaForCausalLM``.
        model_type: transformers family, for example ``llama``.
        parameters: Numbers in the weight files; tied weights count once.
        context_length: Longest sequence in tokens.
        bytes: Size of the weight files.
        has_chat_template: Whether messages can be rendered as the model was trained to read them.
        special_tokens: By role: ``bos_token``, ``eos_token``, ``pad_token``, ``unk_token``.
    """

    path: str
    digest: str
    architecture: str
    model_type: str
    parameters: int
    context_length: int
    bytes: int
    has_chat_template: bool
    special_tokens: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-compatible values."""
        return asdict(self)


def describe_model(path: Path) -> ModelFacts:
    """Return the facts of the model in ``path``.

    Raises:
        BaseModelError: No readable model lies there, or one that would need pickle or remote code.
    """
    config = read_config(path)
    tokenizer_config = _read_json(path / "tokenizer_config.json")
    weights = sorted(path.glob("*.safetensors"))
    return ModelFacts(
        path=str(path.resolve()),
        digest=model_digest(path),
        architecture=(config.get("architectures") or ["unknown"])[0],
        model_type=str(config.get("model_type", "unknown")),
        parameters=sum(_count_parameters(file) for file in weights),
        context_length=context_length(config),
        bytes=sum(file.stat().st_size for file in weights),
        has_chat_template=(path / "chat_template.jinja").is_file() or bool(tokenizer_config.get("chat_template")),
        special_tokens=dict(_special_tokens(tokenizer_config)),
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` after checking that the folder is one we load.

    Raises:
        BaseModelError: The folder or its config is missing, its weights are no safetensors, or it asks for remote code.
    """
    if not path.is_dir():
        raise BaseModelError(
            f"the base model folder {path} does not exist; import or register the model again", "model"
        )
    if not (path / "config.json").is_file():
        raise BaseModelError(f"{path} holds no config.json; it must be a Hugging Face model folder", "model")
    if not any(path.glob("*.safetensors")):
        raise BaseModelError(f"{path} holds no *.safetensors weights; convert the model to safetensors", "model")
    config = _read_json(path / "config.json")
    if "auto_map" in config or "auto_map" in _read_json(path / "tokenizer_config.json"):
        raise BaseModelError(f"the model in {path} needs remote code (auto_map), which is never run", "model")
    return config


def context_length(config: dict[str, Any]) -> int:
    """Return the longest sequence in tokens that ``config`` allows.

    Raises:
        BaseModelError: The config does not say.
    """
    for scope in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(scope.get(key), int):
                return int(scope[key])
    raise BaseModelError(f"the model's config names no context length (looked for {', '.join(_CONTEXT_KEYS)})", "model")


def find_pickle_weights(path: Path) -> list[str]:
    """Return names of files in ``path`` that could run code when loaded."""
    return sorted(file.name for file in path.iterdir() if file.suffix in _PICKLE_SUFFIXES)


def list_model_files(path: Path) -> list[str]:
    """Return the names, relative to ``path``, of the files that decide what the model computes, sorted."""
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sorted(name for name in names if _MODEL_FILE.fullmatch(name))


def model_digest(path: Path) -> str:
    """Return sha256 over the sorted ``name:sha256`` lines of the model's weight, config, tokenizer and template files.

    Hashes of unchanged files (same size and modification time) come from a cache file beside them.
    """
    cache = _read_json(path / DIGEST_CACHE_FILE)
    entries = {name: _file_entry(path / name, cache.get(name)) for name in list_model_files(path)}
    if entries != cache:
        _write_cache(path / DIGEST_CACHE_FILE, entries)
    lines = "".join(f"{name}:{entry['sha256']}\n" for name, entry in sorted(entries.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_entry(file: Path, cached: object) -> dict[str, Any]:
    status = file.stat()
    state = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    if isinstance(cached, dict) and {key: cached.get(key) for key in state} == state and "sha256" in cached:
        return cached
    with file.open("rb") as stream:
        return {**state, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_cache(file: Path, entries: dict[str, Any]) -> None:
    """Replace the cache at once; a folder that cannot be written to is hashed anew each time."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=file.name, delete=False) as stream:
            json.dump(entries, stream, indent=1)
        os.replace(stream.name, file)
    except OSError:
        return


def _count_parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header alone."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        if length > _MAX_HEADER_BYTES:
            raise BaseModelError(f"{file.name} is no safetensors file", "model")
        try:
            header = json.loads(stream.read(length))
            return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BaseModelError(f"{file.name} is no safetensors file", "model") from error


def _special_tokens(tokenizer_config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = tokenizer_config.get(role)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield role, text


def _read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``; empty when there is none."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

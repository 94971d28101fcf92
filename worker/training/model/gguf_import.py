"""Imports a base model into the cache, once: from a GGUF file, a Hugging Face folder or a package that ships a GGUF.

The result is an ordinary folder: safetensors, config, tokenizer, chat template. It appears by one rename, so a folder
that exists is complete; a lock file keeps concurrent imports of one name apart.
"""

import fcntl
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.training.errors import BaseModelError
from worker.training.model.model_folder import (
    ModelFacts,
    describe_model,
    find_pickle_weights,
    list_model_files,
    read_config,
)

Report = Callable[[str], None]
_Build = Callable[[Path], None]


def import_model(source: str, cache: Path, *, name: str | None = None, report: Report = print) -> ModelFacts:
    """Import ``source`` into ``cache / name`` and return its facts; a complete earlier import is reused.

    Args:
        source: A ``.gguf`` file, a Hugging Face folder, or the name of an installed package that ships one GGUF file.
        cache: Folder of imported models.
        name: Folder name; by default the source's own.
        report: Told about progress, a line at a time.

    Raises:
        BaseModelError: The source is missing or no model that can be imported.
    """
    path = Path(source)
    if path.is_dir():
        return import_folder(path, cache / (name or path.resolve().name), report=report)
    if path.suffix == ".gguf":
        return import_gguf(path, cache / (name or path.stem), report=report)
    return import_package(source, cache / (name or source), report=report)


def import_gguf(gguf_file: Path, target: Path, *, report: Report = print) -> ModelFacts:
    """De-quantize ``gguf_file`` to bfloat16 safetensors with its tokenizer and chat template in ``target``.

    Raises:
        BaseModelError: The file is missing or of an architecture that transformers cannot read.
    """
    if not gguf_file.is_file():
        raise BaseModelError(f"there is no GGUF file {gguf_file}", "model")

    def build(folder: Path) -> None:
        report(f"reading weights from {gguf_file.name}")
        try:
            _convert_weights(gguf_file, folder)
            report("reading the tokenizer")
            AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(folder)
        except (ValueError, KeyError, NotImplementedError, OSError) as error:
            raise BaseModelError(f"{gguf_file.name} cannot be imported ({type(error).__name__})", "model") from error

    return _import_once(target, build, report)


def import_folder(source: Path, target: Path, *, report: Report = print) -> ModelFacts:
    """Copy the model files of a Hugging Face folder to ``target``.

    Raises:
        BaseModelError: The folder holds no safetensors model, or pickled weights, or asks for remote code.
    """
    read_config(source)
    pickled = find_pickle_weights(source)
    if pickled:
        raise BaseModelError(
            f"{source} holds pickled weights ({', '.join(pickled[:3])}), which can run code; keep safetensors only",
            "model",
        )

    def build(folder: Path) -> None:
        for file in list_model_files(source):
            report(f"copying {file}")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / file)

    return _import_once(target, build, report)


def import_package(package: str, target: Path, *, report: Report = print) -> ModelFacts:
    """Import the GGUF file that an installed package ships. The package itself is never imported.

    Raises:
        BaseModelError: The package is not installed or does not ship exactly one GGUF file.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BaseModelError(
            f"{package} is no GGUF file, no folder and no installed package; check the name or install it", "model"
        ) from error
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise BaseModelError(
            f"the package {package} ships {len(found)} GGUF files, not one; import the file itself", "model"
        )
    return import_gguf(Path(str(found[0].locate())), target, report=report)


def _convert_weights(gguf_file: Path, folder: Path) -> None:
    """Save the weights as those of a fresh model: what transformers reads from GGUF counts as quantized, unsavable."""
    loaded = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.bfloat16)
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    fresh.tie_weights()
    fresh.save_pretrained(folder)


def _import_once(target: Path, build: _Build, report: Report) -> ModelFacts:
    """Return the facts of ``target``, built in a folder beside it and renamed when complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(target.with_name(f".{target.name}.lock"), report):
        if target.exists():
            report(f"{target} is there already")
            return describe_model(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as staging:
            folder = Path(staging) / "model"
            folder.mkdir()
            build(folder)
            describe_model(folder)
            folder.rename(target)
        report(f"saved {target}")
        return describe_model(target)


@contextmanager
def _exclusive(lock_file: Path, report: Report) -> Iterator[None]:
    """Hold an advisory lock; the kernel drops it when the holder dies."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another import of this model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

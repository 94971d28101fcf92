import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures.tiny_models import TinyModel
from worker.training.errors import BaseModelError
from worker.training.model.model_folder import (
    DIGEST_CACHE_FILE,
    context_length,
    describe_model,
    list_model_files,
    model_digest,
)


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model(), tmp_path / "model", ignore=shutil.ignore_patterns(".*")))


def test_facts_come_from_the_files(folder: Path) -> None:
    facts = describe_model(folder)
    assert (facts.architecture, facts.model_type, facts.context_length) == ("LlamaForCausalLM", "llama", 512)
    assert facts.parameters == 34976
    assert facts.bytes == (folder / "model.safetensors").stat().st_size
    assert facts.special_tokens["eos_token"] == "<|im_end|>"
    assert facts.has_chat_template
    assert json.loads(json.dumps(facts.to_json()))["digest"] == model_digest(folder)


def test_a_model_without_template_says_so(tiny_model: TinyModel) -> None:
    assert not describe_model(tiny_model("llama", "none")).has_chat_template


def test_the_digest_covers_weights_config_tokenizer_and_template(folder: Path) -> None:
    assert set(list_model_files(folder)) >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    before = model_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(1, 1))
    assert model_digest(folder) != before


def test_an_added_weight_file_changes_the_digest_and_a_note_does_not(folder: Path) -> None:
    before = model_digest(folder)
    (folder / "README.md").write_text("note")
    assert model_digest(folder) == before
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")
    assert model_digest(folder) != before


def test_the_digest_does_not_depend_on_the_cache_of_hashes(folder: Path) -> None:
    first = model_digest(folder)
    assert model_digest(folder) == first
    (folder / DIGEST_CACHE_FILE).write_text("{ damaged")
    assert model_digest(folder) == first
    (folder / DIGEST_CACHE_FILE).unlink()
    assert model_digest(folder) == first


def test_unchanged_files_are_not_hashed_again(folder: Path) -> None:
    model_digest(folder)
    cache = json.loads((folder / DIGEST_CACHE_FILE).read_text())
    cache["config.json"]["sha256"] = "0" * 64
    (folder / DIGEST_CACHE_FILE).write_text(json.dumps(cache))
    trusting = model_digest(folder)
    os.utime(folder / "config.json", ns=(1, 1))
    assert model_digest(folder) != trusting


def test_missing_and_foreign_folders_are_refused_with_a_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not exist"):
        describe_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        describe_model(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="safetensors"):
        describe_model(folder)


def test_remote_code_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(BaseModelError, match="remote code"):
        describe_model(folder)


@pytest.mark.parametrize("content", [b"not safetensors at all", (2**40).to_bytes(8, "little"), b'\x02\0\0\0\0\0\0\0{"'])
def test_a_damaged_weight_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match="no safetensors file"):
        describe_model(folder)


def test_the_context_length_is_found_under_its_several_names() -> None:
    assert context_length({"n_positions": 7}) == 7
    assert context_length({"text_config": {"max_position_embeddings": 8}}) == 8
    with pytest.raises(BaseModelError, match="context length"):
        context_length({})

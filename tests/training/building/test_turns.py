"""Rows whose response is their last turn, and rows with tools, through NLFT on templates of several kinds."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_models import Template, TinyModel, build_tiny_model
from tests.training.builders import make_workspace
from tests.training.building.runs import dataset, run
from worker.training.data.examples import Message
from worker.training.observer import NullObserver
from worker.training.trainer import train

TOOLS = (
    "{% for tool in tools or [] %}{{ 'Tool: ' + tool['function']['name'] + '\n' }}{% endfor %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ '<call>' + call['function']['name'] + ' ' }}"
    "{{ call['function']['arguments']['x'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "double", "parameters": {"default": None}}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say 1!"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Say 2!"},
]


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(x: int) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "double", "arguments": f'{{"x": {x}}}'}}
    return {"role": "assistant", "tool_calls": [call]}


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose template knows tools."""
    folder = build_tiny_model(tmp_path_factory.mktemp("caller") / "caller")
    (folder / "chat_template.jinja").write_text(TOOLS)
    return folder


@pytest.mark.parametrize("template", ["chatml", "no_system", "none"])
def test_a_chat_is_graded_and_judged_by_its_last_turn(
    tmp_path: Path, tiny_model: TinyModel, template: Template
) -> None:
    rows = [{"messages": [*CHAT, said(text)], "reference": "#### 2"} for text in ("2", "It is 3")]
    run(tmp_path, tiny_model("llama", template), rows=rows)
    right, wrong = dataset(tmp_path)
    assert (right.correct, right.response, right.messages[-1]) == (True, None, Message("assistant", "2"))
    assert (wrong.correct, wrong.judgment) == (False, "The answer concludes 3, but the right result is 2.")


def test_the_last_turn_and_a_response_train_alike(tmp_path: Path, tiny_model: TinyModel) -> None:
    outputs = []
    for name, row in (("turn", {"messages": [*CHAT, said("2")]}), ("field", {"messages": CHAT, "response": "2"})):
        rows = [row | {"reference": "2", "correct": True}] * 4
        spec = make_workspace(tmp_path / name, tiny_model(), rows, method="nlft")
        train(tmp_path / name, spec, NullObserver())
        outputs.append((tmp_path / name / "outputs/adapter_model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("method", ["nlft", "supervised"])
def test_tool_calls_are_responses(tmp_path: Path, caller: Path, method: str) -> None:
    reference = '{"name": "double", "arguments": "{\\"x\\": 2}"}'
    rows = [{"messages": [*CHAT, called(x)], "tools": [TOOL], "reference": reference} for x in (2, 3)]
    mixture = {"max_right_per_question": 1}
    grader = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}", "operation": "eq"}
    building = {"grader": grader | {"reference": "{{ item.reference }}"}, "mixture": mixture}
    run(tmp_path, caller, rows=rows, method=method, building=building)
    built = [json.loads(line) for line in (tmp_path / "built/dataset.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in built] == [True, False]
    assert [row["messages"][-1] for row in built] == [row["messages"][-1] for row in rows]
    assert built[0]["tools"] == [TOOL]


def test_a_rollout_sees_the_tools(tmp_path: Path, counter: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in counter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(TOOLS)
    run(tmp_path / "run", folder, rows=[{"messages": CHAT, "tools": [TOOL], "reference": "#### 2"}])
    rows = dataset(tmp_path / "run")
    assert rows
    assert all(row.tools == [TOOL] for row in rows)

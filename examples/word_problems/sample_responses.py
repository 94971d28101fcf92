"""Lets a model write the responses of the training rows: ``responses.jsonl``, made once and committed.

    python -m examples.word_problems.sample_responses MODEL_FOLDER

The untrained model solves almost nothing, so an adapter is first warmed up on worked solutions of *other* problems of
the same families; then one response per training question is drawn at temperature 0.7, right or wrong as it comes.
The warm-up adapter is thrown away. Sampling in bfloat16 differs between processors, so another machine gets other
responses of the same kind.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from peft import PeftModel

from examples.word_problems.families import Problem, draw_problems
from examples.word_problems.generate import FOLDER, prompt, training_problems, validation_problems, write_rows
from worker.training.data.examples import Message
from worker.training.data.rendering import ModelRenderer
from worker.training.generation import Decoding, generate
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.model.model_folder import model_digest
from worker.training.observer import NullObserver
from worker.training.spec import (
    OUTPUTS_DIR,
    TRAINING_FILE,
    BaseModelRef,
    EvaluationSettings,
    RuntimeSettings,
    TrainingSpec,
)
from worker.training.trainer import train

WARM_UP_SEED, WARM_UP_ROWS = 3, 240
DECODING = Decoding(max_new_tokens=80, batch_size=32, temperature=0.7, seed=0)


def warm_up_problems() -> list[Problem]:
    """Return problems that are neither trained on later nor held out."""
    return draw_problems(WARM_UP_SEED, WARM_UP_ROWS, avoid=[*training_problems(), *validation_problems()])


def warm_up(base_model: BaseModelRef, runtime: RuntimeSettings, workspace: Path) -> Path:
    """Train an adapter on worked solutions in ``workspace`` and return its folder."""
    training_file = workspace / TRAINING_FILE
    training_file.parent.mkdir(parents=True)
    write_rows(
        training_file,
        [
            {"messages": [*prompt(problem), {"role": "assistant", "content": problem.solution}]}
            for problem in warm_up_problems()
        ],
    )
    spec = TrainingSpec(
        job_id="warm-up",
        base_model=base_model,
        method="supervised",
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        evaluation=EvaluationSettings(generate=False),
        runtime=runtime,
    )
    train(workspace, spec, NullObserver())
    return workspace / OUTPUTS_DIR


def sample(loaded: LoadedModel) -> list[dict[str, str]]:
    """Return one response to each training question."""
    renderer = ModelRenderer(loaded.tokenizer)
    problems = training_problems()
    prompts = [renderer.prompt([Message(**turn) for turn in prompt(problem)]) for problem in problems]  # type: ignore[arg-type]
    answers = generate(loaded.model, prompts, frozenset({renderer.end_of_turn_id}), DECODING)
    return [
        {
            "question": problem.question,
            "response": str(loaded.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip(),
        }
        for problem, answer in zip(problems, answers, strict=True)
        if answer.is_finished
    ]


def main() -> None:
    """Write ``responses.jsonl`` beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    base_model = BaseModelRef(name=options.model.name, path=str(options.model), digest=model_digest(options.model))
    runtime = RuntimeSettings(threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        adapter = warm_up(base_model, runtime, Path(folder))
        loaded = load_base_model(base_model, runtime)
        adapted = PeftModel.from_pretrained(loaded.model, adapter).merge_and_unload()
        rows = sample(replace(loaded, model=adapted))
    write_rows(FOLDER / "responses.jsonl", rows)
    print(f"{len(rows)} responses")


if __name__ == "__main__":
    main()

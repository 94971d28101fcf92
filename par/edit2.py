exec(open("/tmp/lead/me/par/edit.py").read().split("sub(\"worker",1)[0])
sub("worker/training/engine/step.py",
('lambda _: check(), start_over','lambda *_: check(), start_over'),
('''self._together(examples, lambda done: report(done, len(examples)), lambda: None)''','''self._together(examples, report, lambda: None)'''),
('''        self, examples: Sequence[PreparedExample], begin: Callable[[int], None], start_over: Callable[[], None]
''','''        self, examples: Sequence[PreparedExample], begin: Callable[[int, int], None], start_over: Callable[[], None]
'''),
('''of: int, begin: Callable[[int], None]''','''of: int, begin: Callable[[int, int], None]'''),
('''begin(group.start)''','''begin(group.start, len(examples))'''),
('''BACKWARD_FACTOR if p''','''_GRADIENT_WORK if p'''),
('''WEIGHT_BINS = 40
''','''WEIGHT_BINS = 40
# Of a token, in tokens without gradient: with a frozen base the backward pass costs what the forward pass does.
_GRADIENT_WORK = 2
'''),
)
sub("worker/training/engine/checkpoint.py",
('''    """Return a digest of what decides the result: the spec without job and runtime, and the training file."""
    deciding = spec.model_dump(mode="json", exclude={"job_id": True, "runtime": True, "base_model": {"path"}})
''','''    """Return a digest of what decides the result: the spec without job, devices and runtime, and the training file."""
    excluded = {"job_id": True, "n_gpus": True, "runtime": True, "base_model": {"path"}}
    deciding = spec.model_dump(mode="json", exclude=excluded)
'''),
)
sub("worker/training/spec.py",
('''    seed: int = Field(0, ge=0, le=2**31 - 1)
    runtime''','''    seed: int = Field(0, ge=0, le=2**31 - 1)
    n_gpus: int = Field(1, ge=1, description="Devices that train together, one process on each.")
    runtime'''))
sub("worker/training/run.py",
('''from worker.training.engine.optimizer import AdapterOptimizer
''','''from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.parallel import Ranks
'''),
('''    observer: Observer
    pulse''','''    ranks: Ranks
    observer: Observer
    pulse'''),
('''def prepare_run(workspace: Path, spec: TrainingSpec, observer: Observer, completions: Completions) -> Run:
    """Load the model, read and build the rows, and put the run together.

    Raises:
        TrainingError: The run cannot be done; see ``errors`` for the kinds.
    """
    rows = read_training_rows(workspace, spec)
    loaded = load_base_model(spec.base_model, spec.runtime)
    renderer = ModelRenderer(loaded.tokenizer)
    rows = build_rows(workspace, spec, loaded, renderer, rows, observer=observer, completions=completions)
    recipe = choose_recipe(spec, loaded, rows, observer)
    data = prepare_data(workspace, spec, loaded, recipe, renderer, rows=rows, observer=observer)
    adapted''','''def prepare_run(
    workspace: Path, spec: TrainingSpec, observer: Observer, completions: Completions, ranks: Ranks
) -> Run:
    """Load the model, read and build the rows, and put the run together.

    Rows are read, built and rendered by the first of the ``ranks``, which hands them to the others.

    Raises:
        TrainingError: The run cannot be done; see ``errors`` for the kinds.
    """
    raw = ranks.on_first(lambda: read_training_rows(workspace, spec))
    loaded = ranks.agree(lambda: load_base_model(spec.base_model, ranks.settings(spec.runtime)))
    renderer = ModelRenderer(loaded.tokenizer)
    rows = ranks.on_first(
        lambda: build_rows(workspace, spec, loaded, renderer, raw, observer=observer, completions=completions)
    )
    recipe = ranks.agree(lambda: choose_recipe(spec, loaded, rows, observer))
    data = ranks.on_first(
        lambda: prepare_data(workspace, spec, loaded, recipe, renderer, rows=rows, observer=observer)
    )
    return ranks.agree(lambda: _put_together(workspace, spec, observer, Parts(loaded, renderer, recipe, data), ranks))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is put together from: the base model, its renderer, how to train, and the rows."""

    loaded: LoadedModel
    renderer: ModelRenderer
    recipe: Recipe
    data: PreparedData


def _put_together(workspace: Path, spec: TrainingSpec, observer: Observer, parts: Parts, ranks: Ranks) -> Run:
    loaded, recipe, data = parts.loaded, parts.recipe, parts.data
    adapted'''),
('''    companions = {**chronicle.companions, **KeptRows.of_workspace(workspace).files}
''','''    # Files of the run are the first rank's; the others only read the tensors of a checkpoint.
    files = {**chronicle.companions, **KeptRows.of_workspace(workspace).files} if ranks.is_first else {}
'''),
('''        workspace=workspace,
        spec=spec,
        observer''','''        workspace=workspace,
        spec=spec,
        ranks=ranks,
        observer'''),
('''        renderer=renderer,
''','''        renderer=parts.renderer,
'''),
('''recipe.method, chosen),
''','''recipe.method, chosen, ranks),
'''),
('''state, companions)''','''state, files)'''),
)
sub("worker/training/trainer.py",
('''import time
from contextlib''','''import os
import time
from contextlib'''),
('''from worker.training.engine.export import export_outputs
''','''from worker.training.engine.export import export_outputs
from worker.training.engine.parallel import ALONE
'''),
('''    from worker.training.completions import Completions
''','''    from worker.training.completions import Completions
    from worker.training.engine.parallel import Ranks
'''),
('''def train(
    workspace: Path, spec: TrainingSpec, observer: Observer, completions: Completions | None = None
) -> ResultEvent:
''','''def train(
    workspace: Path,
    spec: TrainingSpec,
    observer: Observer,
    completions: Completions | None = None,
    ranks: Ranks = ALONE,
) -> ResultEvent:
'''),
('''endpoints; without it they get no answers.

''','''endpoints; without it they get no answers. Of several ``ranks`` each makes this call, all but the first with an
    observer that hears nothing.

'''),
('''    configure_runtime(spec.runtime, spec.seed)
    observer = clock = PhaseClock(observer)
    observer.emit(PhaseEvent("preparing"))
    run = prepare_run(workspace, spec, observer, completions or NoCompletions())
    generators''','''    configure_runtime(spec.runtime, spec.seed)
    observer = clock = PhaseClock(observer)
    observer.emit(PhaseEvent("preparing"))
    with ranks.connected(os.environ):
        run = prepare_run(workspace, spec, observer, completions or NoCompletions(), ranks)
        return _run(run, clock)


def _run(run: Run, clock: PhaseClock) -> ResultEvent:
    generators'''),
('''    generators = _resume(run)
''','''    generators = run.ranks.agree(lambda: _resume(run))
'''),
('''        if generators is None:
            _probe(run)
        _score_cached(run)
        if generators is None:
            run.chronicle.begin(run.scorer, observer)
''','''        if generators is None:
            run.ranks.on_first(lambda: _probe(run))
        _score_cached(run)
        if generators is None:
            run.ranks.on_first(lambda: run.chronicle.begin(run.scorer, run.observer))
'''),
('''    return _export(run, accuracy_after, clock)
''','''    return run.ranks.on_first(lambda: _export(run, accuracy_after, clock))
'''),
('''    # The fresh adapter has no effect yet, only costs.
    with run.adapted.disable_adapter() if stage == "before" else nullcontext():
        result = evaluate_generation(
            run.loaded, run.renderer, run.data.asked, run.spec.evaluation, on_progress=run.pulse.beat
        )
''','''    # The fresh adapter has no effect yet, only costs.
    with run.adapted.disable_adapter() if stage == "before" else nullcontext():
        result = _answer_together(run)
'''),
('''def _probe(run''','''def _answer_together(run: Run) -> GenerationResult:
    """Return the graded answers to the validation rows, each given by one of the ranks."""
    shares = share_out([1] * len(run.data.asked), run.ranks.size)  # how long an answer gets is not known before
    rows = [run.data.asked[index] for index in shares[run.ranks.rank]]
    parts = run.ranks.gather(
        lambda: evaluate_generation(run.loaded, run.renderer, rows, run.spec.evaluation, on_progress=run.pulse.beat)
    )
    placed = {index: answer for share, part in zip(shares, parts, strict=True) for index, answer in zip(share, part.answers, strict=True)}
    return GenerationResult(tuple(placed[index] for index in range(len(placed))))


def _probe(run'''),
('''    if any(scoring_pass.cached for scoring_pass in passes):
        run.enter("scoring")
        run.scorer.fill_cache([*run.data.training, *run.data.validation], passes, run.pulse.beat)
''','''    cached = [scoring_pass for scoring_pass in passes if scoring_pass.cached]
    if not cached:
        return
    run.enter("scoring")
    rows = [*run.data.training, *run.data.validation]
    shares = share_out([row.tokens(cached) for row in rows], run.ranks.size)

    def score_share() -> list[dict[str, NDArray[np.float32]]]:
        own = [rows[index] for index in shares[run.ranks.rank]]
        run.scorer.fill_cache(own, passes, run.pulse.beat)
        return [row.cached for row in own]

    for share, scores in zip(shares, run.ranks.gather(score_share), strict=True):
        for index, found in zip(share, scores, strict=True):
            rows[index].cached.update(found)
'''),
('''        examples = [run.data.training[index] for index in rows]
        try:
''','''        examples = [run.data.training[index] for index in rows]
        run.ranks.seed_step(run.spec.seed, progress.step + 1)
        try:
'''),
('''            run.chronicle.note_checkpoint(run.scorer, progress, run.total_steps, run.observer)
            _save''','''            run.ranks.on_first(
                lambda: run.chronicle.note_checkpoint(run.scorer, progress, run.total_steps, run.observer)
            )
            _save'''),
('''    run.saved_step = run.progress.step
    path = run.checkpointer.save(run.progress)
    run.observer.emit(CheckpointEvent(run.progress.step, path, run.progress.summary()))
''','''    run.saved_step = run.progress.step
    run.ranks.require_equal(run.optimizer.digest(), f"the adapter after step {run.saved_step}")
    path = run.ranks.on_first(lambda: run.checkpointer.save(run.progress))
    run.observer.emit(CheckpointEvent(run.progress.step, path, run.progress.summary()))
'''),
('''from worker.training.engine.parallel import ALONE
''','''from worker.training.engine.parallel import ALONE, share_out
'''),
('''from worker.training.evaluation import evaluate_generation
''','''from worker.training.evaluation import GenerationResult, evaluate_generation
'''),
('''    from typing import Literal

''','''    from typing import Literal

    import numpy as np
    from numpy.typing import NDArray

'''),
)
sub("worker/training/command.py",
('''        link = ParentLink.from_environment(os.environ)
        return run(options.workspace, link, link)
''','''        ranks = Ranks.from_environment(os.environ)
        if ranks.is_first:
            link = ParentLink.from_environment(os.environ)
            return run(options.workspace, link, link, ranks)
        ignore_signals()
        return run(options.workspace, NullObserver(), ranks=ranks)
'''),
('''def run(workspace: Path, observer: Observer, completions: Completions | None = None) -> int:
    """Train what ``workspace`` describes, report every outcome to ``observer`` and return the exit status.

    ``completions`` reaches the endpoints that the run's grader and judge may ask.
    """
    try:
        observer.emit(train(workspace, load_spec(workspace), observer, completions))
''','''def run(
    workspace: Path, observer: Observer, completions: Completions | None = None, ranks: Ranks = ALONE
) -> int:
    """Train what ``workspace`` describes, report every outcome to ``observer`` and return the exit status.

    ``completions`` reaches the endpoints that the run's grader and judge may ask; ``ranks`` are the processes that
    train it together.
    """
    try:
        observer.emit(train(workspace, load_spec(workspace), observer, completions, ranks))
'''),
('''from worker.training.completions import Completions
''','''from worker.training.completions import Completions
from worker.training.engine.parallel import ALONE, Ranks
'''),
('''from worker.training.observer import Observer
from worker.training.parent_link import ParentLink
''','''from worker.training.observer import NullObserver, Observer
from worker.training.parent_link import ParentLink, ignore_signals
'''),
)
sub("worker/training/parent_link.py",
('''def kill_own_group()''','''def ignore_signals() -> None:
    """Leave it to the process that speaks for all to hear that a run should end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def kill_own_group()'''))

"""A base model that stays loaded, the adapter that was asked for last, and everything scored with them."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from worker.training.data.reader import read_rows
from worker.training.data.rendering import ModelRenderer
from worker.training.data.screening import check_rows
from worker.training.engine.memory import choose_micro_batch_tokens, release_memory
from worker.training.engine.runtime import configure_runtime
from worker.training.engine.scoring import Scorer
from worker.training.errors import PreviewTooLargeError, SpecError
from worker.training.explaining.explanation import Measured, plan_passes, weigh
from worker.training.explaining.token_text import split_text
from worker.training.methods import METHODS
from worker.training.model.adapter import ADAPTER_CONFIG_FILE, attach_adapter, load_adapter
from worker.training.model.base_model import LoadedModel, load_base_model
from worker.training.previews.protocol import PreviewAnswer, PreviewUsage
from worker.training.previews.renders import RenderCache
from worker.training.previews.scores import ScoreCache, Wanted, assemble, batch_of, key_of, score_sequences
from worker.training.spec import LoraSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from peft import PeftModel

    from worker.training.methods.base import Hyperparameters, Method
    from worker.training.previews.protocol import PreviewAdapter, PreviewRequest
    from worker.training.previews.scores import SequenceScores
    from worker.training.spec import BaseModelRef, RuntimeSettings
    from worker.training.types import RenderedExample, ScoringPass, TokenSequence

PARAM = "examples"
_CACHE_BYTES = 512 << 20
_KEPT_TEXTS = 4096
_SEED = 0


@dataclass(slots=True)
class _Base:
    """A loaded base model with an adapter attached: the one of ``adapter_digest``, or a fresh one without effect."""

    ref: BaseModelRef
    loaded: LoadedModel
    renderer: ModelRenderer
    adapted: PeftModel
    scorer: Scorer
    adapter_digest: str | None = None


class Workbench:
    """Answers previews one after the other, loading and scoring only what the ones before have not."""

    def __init__(self) -> None:
        self._base: _Base | None = None
        self._cache = ScoreCache(_CACHE_BYTES)
        self._renders = RenderCache()
        self._texts: OrderedDict[tuple[int, ...], tuple[str, ...]] = OrderedDict()

    def answer(self, request: PreviewRequest, check: Callable[[], None]) -> PreviewAnswer:
        """Return the answer to ``request``; ``check`` may raise between two forward passes.

        Raises:
            TrainingError: The preview cannot be made: rows, hyperparameters, base model or memory.
        """
        started = time.monotonic()
        method, hyperparameters = _choose(request)
        base = self._load(request.base_model, request.runtime)
        check()
        lines, rendered = self._renders.render(
            f"{request.base_model.digest}\n{method.name}\n{request.rows}",
            hyperparameters,
            partial(_render, request.rows, base, method),
        )
        passes = plan_passes(method, hyperparameters, with_hidden=True)
        scores, scored_tokens, all_tokens = self._score(request, rendered, passes, check)
        batch = batch_of(assemble(scores, passes), rendered)
        ids = _main_ids(rendered, passes, method)
        texts = tuple(self._split(base, row) for row in ids)
        with _one_thread():
            records = weigh(Measured(lines, passes, batch, ids, texts), method, hyperparameters, step=0)
        usage = PreviewUsage(scored_tokens, all_tokens - scored_tokens, time.monotonic() - started)
        chosen = hyperparameters.model_dump(mode="json")
        return PreviewAnswer(request.model, method.name, chosen, records, usage)

    def _load(self, ref: BaseModelRef, runtime: RuntimeSettings) -> _Base:
        if self._base is not None and self._base.ref == ref:
            return self._base
        self._base = None
        release_memory()
        configure_runtime(runtime, _SEED)
        loaded = load_base_model(ref, runtime)
        adapted = attach_adapter(loaded.model, LoraSettings(), base_model_name=ref.name, seed=_SEED)
        scorer = Scorer(adapted, micro_batch_tokens=choose_micro_batch_tokens(runtime, loaded.device))
        self._base = _Base(ref, loaded, ModelRenderer(loaded.tokenizer), adapted, scorer)
        return self._base

    def _put_on(self, base: _Base, adapter: PreviewAdapter) -> None:
        """Attach ``adapter`` in place of the one that is attached."""
        if base.adapter_digest == adapter.digest:
            return
        folder = Path(adapter.path)
        settings = _read_settings(folder)
        # What follows may fail half-way; the base is then loaded afresh.
        self._base = None
        bare = base.adapted.unload()
        base.adapted = attach_adapter(bare, settings, base_model_name=base.ref.name, seed=_SEED)
        load_adapter(base.adapted, folder)
        base.scorer = Scorer(base.adapted, micro_batch_tokens=base.scorer.memory.micro_batch_tokens)
        base.adapter_digest = adapter.digest
        self._base = base

    def _score(
        self,
        request: PreviewRequest,
        rendered: Sequence[RenderedExample],
        passes: Sequence[ScoringPass],
        check: Callable[[], None],
    ) -> tuple[list[list[SequenceScores | None]], int, int]:
        """Return the scores of every row under every pass, tokens run through the model and tokens in all."""
        table = [[_want(request, example.sequences.get(p.sequence), p) for p in passes] for example in rendered]
        wanted: dict[bytes, Wanted] = {}
        for entry in (entry for row in table for entry in row if entry is not None):
            known = wanted.get(entry.key, entry)
            wanted[entry.key] = replace(known, with_hidden=known.with_hidden or entry.with_hidden)
        tokens = sum(len(entry.sequence.input_ids) for entry in wanted.values())
        if tokens > request.most_tokens:
            raise PreviewTooLargeError(
                f"the examples come to {tokens} tokens in all their contexts, and a preview takes at most "
                f"{request.most_tokens}; send fewer or shorter examples",
                PARAM,
            )
        found = {key: scores for key, entry in wanted.items() if (scores := self._cache.find(entry)) is not None}
        missing = [entry for key, entry in wanted.items() if key not in found]
        if missing:
            assert self._base is not None
            if request.adapter is not None and any(entry.with_adapter for entry in missing):
                self._put_on(self._base, request.adapter)
            fresh = score_sequences(self._base.scorer, missing, check)
            for key, scores in fresh.items():
                self._cache.keep(key, scores)
            found |= fresh
        rows = [[None if entry is None else found[entry.key] for entry in row] for row in table]
        return rows, sum(len(entry.sequence.input_ids) for entry in missing), tokens

    def _split(self, base: _Base, ids: tuple[int, ...]) -> tuple[str, ...]:
        """Return what each token adds to the text, remembered: decoding token by token is slow."""
        texts = self._texts.get(ids)
        if texts is None:
            texts = tuple(split_text(base.loaded.tokenizer, ids))
            if len(self._texts) >= _KEPT_TEXTS:
                self._texts.popitem(last=False)
            self._texts[ids] = texts
        return texts


def _choose(request: PreviewRequest) -> tuple[Method, Hyperparameters]:
    method = METHODS.get(request.method)
    if method is None:
        raise SpecError(f"there is no method {request.method}; choose one of {', '.join(METHODS)}", "method")
    try:
        return method, method.hyperparameters_type.model_validate(request.hyperparameters)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        place = ".".join(["hyperparameters", *map(str, fault["loc"])])
        raise SpecError(f"{place}: {fault['msg']}", place) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in this thread alone: on so few numbers, waking others costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _render(
    rows_text: str, base: _Base, method: Method, hyperparameters: Hyperparameters
) -> tuple[tuple[int, ...], list[RenderedExample]]:
    """Return the rows' numbers, from 1, and the rows rendered.

    Raises:
        DatasetError: A row does not suit the base model.
    """
    rows = read_rows([rows_text.encode()], PARAM)
    one = partial(method.render, renderer=base.renderer, hyperparameters=hyperparameters)
    longest = min(hyperparameters.max_seq_length, base.loaded.context_length)
    rendered = check_rows(rows, one, base.loaded.tokenizer, max_tokens=longest, param=PARAM)
    return tuple(row.line for row in rows), rendered


def _want(request: PreviewRequest, sequence: TokenSequence | None, scoring_pass: ScoringPass) -> Wanted | None:
    if sequence is None:
        return None
    # A fresh adapter has no effect: without one of its own, a preview asks the bare base model for everything.
    adapter = request.adapter if scoring_pass.with_adapter else None
    model = request.base_model.digest if adapter is None else f"{request.base_model.digest}+{adapter.digest}"
    key = key_of(request.owner, model, sequence)
    return Wanted(key, sequence, with_adapter=adapter is not None, with_hidden=scoring_pass.with_hidden)


def _main_ids(
    rendered: Sequence[RenderedExample], passes: Sequence[ScoringPass], method: Method
) -> tuple[tuple[int, ...], ...]:
    main = next(p.sequence for p in passes if p.name == method.main_pass)
    sequences = [example.sequences[main] for example in rendered]
    return tuple(tuple(sequence.input_ids[sequence.scored].tolist()) for sequence in sequences)


def _read_settings(folder: Path) -> LoraSettings:
    """Return the shape of the adapter in ``folder``.

    Raises:
        SpecError: It is none that this library has written.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
        return LoraSettings(
            r=config["r"],
            alpha=config["lora_alpha"],
            dropout=config["lora_dropout"],
            target_modules=config["target_modules"],
            layers_to_transform=config["layers_to_transform"] or "all",
            use_rslora=config["use_rslora"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise SpecError("the tuned model's adapter cannot be read", "model") from error

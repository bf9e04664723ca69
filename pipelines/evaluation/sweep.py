"""A sweep: made ready, measured configuration by configuration, and summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, cast

from kvembed.errors import DegenerateSampleError, NonFiniteVectorError
from kvembed.transforms import asked_of
from pipelines.beir import RetrievalDataset
from pipelines.chunking import ChunkingConfig
from pipelines.errors import TerminalError
from pipelines.evaluation.asking import package_versions
from pipelines.evaluation.measures import METRICS, require_ranx
from pipelines.evaluation.sweep_axes import Room, check_main, model_axes, with_transforms
from pipelines.evaluation.sweep_choice import Folds
from pipelines.evaluation.sweep_corpus import Part, SweepCorpus, read_sweep_corpus
from pipelines.evaluation.sweep_files import Scored, ScoreFolder
from pipelines.evaluation.sweep_grid import Configuration, SweepGrid, SweepPlan, make_grid
from pipelines.evaluation.sweep_records import SweepResult
from pipelines.evaluation.sweep_scoring import embed, key_of, prepare_scoring, score_vectors
from pipelines.evaluation.sweep_summary import configuration_record, measured, summed_up
from pipelines.evaluation.tasks import prepare_task
from pipelines.layer_choice import resolve_layers
from pipelines.report import Progress, silent

if TYPE_CHECKING:
    from kvembed import KVEncoder
    from pipelines.errors import JSON

Watcher: TypeAlias = "Callable[[str, int, int, Scored | None], None]"
"""Told how far a sweep is: name of the configuration that is measured, texts embedded so far and in all, and what the
configuration scored, once it has."""


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """How a sweep is judged.

    Attributes:
        metric: Chooses and compares.
        folds: Part the queries.
        part: How much of the data set to keep.
    """

    metric: str = "ndcg@10"
    folds: Folds = field(default_factory=Folds)
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise TerminalError(f"metric is {self.metric!r}; give one of {', '.join(METRICS)}")


@dataclass(frozen=True, slots=True, eq=False)
class SweepTask:
    """A sweep that is ready to be measured.

    Attributes:
        corpus: What every configuration embeds.
        encoder: Main; its layers are resolved.
        grid: What is measured.
        keys: Configuration's name -> hash of all that decides its scores.
        options: How it is judged.
        profile: TwoNN's, of the corpus' chunks; None where they were too few, or nothing asks for it.
        warnings: What a reader has to know.
        seconds: What making it ready took.
    """

    corpus: SweepCorpus
    encoder: KVEncoder
    grid: SweepGrid
    keys: Mapping[str, str]
    options: SweepOptions
    profile: Mapping[str, JSON] | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def texts(self) -> int:
        """Texts that one forward configuration embeds."""
        return len(self.corpus.texts) + len(self.corpus.task.queries)

    def passes(self) -> list[list[Configuration]]:
        """Return the configurations by the vectors they share: those that differ in their transform alone do."""
        groups: dict[str, list[Configuration]] = {}
        for one in self.grid.configurations:
            groups.setdefault(self.over_weights(one).with_transform(None).fingerprint, []).append(one)
        return list(groups.values())

    def over_weights(self, configuration: Configuration) -> KVEncoder:
        """Return the encoder of a configuration; no weights are loaded."""
        return self.encoder.with_config(configuration.config)


def prepare_sweep(
    dataset: str | Path | RetrievalDataset,
    encoder: KVEncoder,
    plan: SweepPlan | None = None,
    options: SweepOptions | None = None,
    *,
    chunking: ChunkingConfig | None = None,
    progress: Progress | None = None,
) -> SweepTask:
    """Read, cut, choose layers by TwoNN, and lay out everything that is to be measured; nothing is embedded yet.

    Args:
        dataset: Folder in the layout of BEIR, or one that was read already.
        encoder: Main. Layers "auto" become TwoNN's of this corpus.
        plan: Axes and values.
        options: Metric, folds, part of the data set.
        chunking: How documents are cut, once for all configurations.
        progress: Told about every stage.

    Raises:
        SourceError: the folder is not such a data set.
        TerminalError: ranx is not installed; too few queries to nest; a value that cannot be measured.
        ConfigError: a value that the model does not have, such as a layer.
    """
    plan, options, told = plan or SweepPlan(), options or SweepOptions(), progress or silent
    check_main(encoder.config)
    require_ranx()
    started = perf_counter()
    axes = model_axes(plan, encoder)
    task = prepare_task(dataset, encoder.tokenizer, chunking or ChunkingConfig())
    options.folds.check(min(len(task.queries), options.part.queries or len(task.queries)))
    corpus = read_sweep_corpus(task, Room.of(encoder, axes), options.part, told)
    axes = with_transforms(axes, plan, encoder, corpus.sample)
    cut = perf_counter()
    told("load_metrics", 0, None)
    prepare_scoring()
    loaded = perf_counter()
    told("select_layers", 0, None)
    auto = encoder.config.layers == "auto"
    asked = auto or "window" in plan.axes
    chosen, profile, warning = resolve_layers(encoder, list(corpus.sample)) if asked else (encoder, None, None)
    main = chosen if auto else encoder
    if profile is not None:
        axes = axes.with_window(_layers(chosen))
    grid = make_grid(main.config, axes.values, plan.grid)
    return SweepTask(
        corpus=corpus,
        encoder=main,
        grid=grid,
        keys={one.name: key_of(main.with_config(one.config), corpus) for one in grid.configurations},
        options=options,
        profile=profile,
        warnings=(*([warning] if warning else []), *axes.left_out),
        seconds={"cut": cut - started, "load_metrics": loaded - cut, "select_layers": perf_counter() - loaded},
    )


def run_sweep(
    task: SweepTask, *, scores: ScoreFolder | None = None, watch: Watcher | None = None, command: str = ""
) -> SweepResult:
    """Measure what is not measured yet, and sum up.

    Args:
        task: What `prepare_sweep` made.
        scores: Keeps each configuration as soon as it is measured, and has those of an earlier run.
        watch: Told how far it is.
        command: What it was made with.

    Raises:
        TerminalError: a configuration cannot be measured; naming it.
        KVEmbedError: re-routing did not fire, a device's process died.
    """
    started = perf_counter()
    folder = scores or ScoreFolder(None)
    found = _measure(task, folder, watch or _unwatched)
    done = perf_counter()
    configurations = [
        measured(one, found[one.name], folder.name(task.keys[one.name])) for one in task.grid.configurations
    ]
    corpus = task.corpus
    window = None if task.profile is None else tuple(cast("list[int]", task.profile["layers"]))
    summary = summed_up(task.grid, configurations, task.options.metric, task.options.folds, window)
    return SweepResult(
        dataset=corpus.task.name,
        subset=corpus.subset,
        metric=task.options.metric,
        grid=task.grid.kind,
        encoder=_identity(task.encoder),
        fingerprint=task.encoder.with_transform(None).fingerprint,
        chunking=corpus.task.chunking.to_dict(),
        queries={query.id: query.text for query in corpus.task.queries.values()},
        counts=corpus.counts,
        folds=task.options.folds.count,
        repeats=task.options.folds.repeats,
        seed=task.options.folds.seed,
        configurations=tuple(configurations),
        axes=summary.axes,
        overall=summary.overall,
        standing=summary.standing,
        profile=task.profile,
        warnings=task.warnings,
        seconds={**task.seconds, "measure": done - started, "sum_up": perf_counter() - done},
        versions=package_versions(),
        command=command,
    )


def _measure(task: SweepTask, folder: ScoreFolder, watch: Watcher) -> dict[str, Scored]:
    """Measure every configuration that the folder does not have, a forward pass at a time."""
    found = {one.name: folder.read(task.keys[one.name]) for one in task.grid.configurations}
    todo = [[one for one in together if found[one.name] is None] for together in task.passes()]
    todo = [together for together in todo if together]
    done, total = 0, len(todo) * task.texts
    for together in todo:
        first = together[0]
        before = done

        def told(texts: int, name: str = first.name) -> None:
            nonlocal done
            done += texts
            watch(name, done, total, None)

        with _naming(first):
            vectors = embed(task.over_weights(first), task.corpus, told)
        for one in together:
            with _naming(one):
                scored = score_vectors(vectors, asked_of(one.config.transform), task.corpus)
            scored = scored if one is first else replace(scored, seconds=0.0)
            folder.write(task.keys[one.name], configuration_record(one), scored)
            found[one.name] = scored
            watch(one.name, before + task.texts, total, scored)
    return {name: scored for name, scored in found.items() if scored is not None}


@contextmanager
def _naming(configuration: Configuration) -> Iterator[None]:
    """Name the configuration that cannot be measured."""
    try:
        yield
    except (NonFiniteVectorError, DegenerateSampleError) as error:
        raise TerminalError(
            f"configuration {configuration.name!r} cannot be measured: {error}; leave that value out"
        ) from error


def _identity(encoder: KVEncoder) -> dict[str, JSON]:
    """Return the identity of main, its transform as it is asked for."""
    plain = cast("dict[str, JSON]", encoder.with_transform(None).identity())
    asked = asked_of(encoder.config.transform)
    return {**plain, "transform": None if asked is None else cast("dict[str, JSON]", asked.to_dict())}


def _layers(encoder: KVEncoder) -> tuple[int, ...]:
    return () if encoder.config.layers == "auto" else encoder.config.layers


def _unwatched(_configuration: str, _done: int, _total: int, _scored: Scored | None) -> None:
    """Tell nobody."""

"""The comparison that the paper makes, as a table: KV re-routing beside training-free methods on mteb's tasks.

```
python -m benchmarks.mteb_table --estimate                        # hours, from mteb's own counts; loads no data
python -m benchmarks.mteb_table --device cuda --dtype bfloat16    # runs; again after a stop: goes on where it was
python -m benchmarks.mteb_table --rehearse                        # the bundled model, two local tasks, no network
```

Models are Qwen3-4B, Mistral-7B and Llama-3.1-8B, as the paper names them; which revisions, which tasks and which
layers it used is not known here, for only its abstract was read. Tasks are those of "MTEB(eng, v2)" unless --tasks
names others. Layers are chosen once per model from the documentation strings of Python's library, not from any task,
and kept in the results' folder with everything else; mteb keeps each task's result there by the encoder's fingerprint,
and a run that is started again takes what it finds. Each task gets the prompts that `kvembed.mteb` says.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mteb

from benchmarks.mteb_tasks import local_tasks, tokens_of
from kvembed import DEMO_MODEL, EncoderConfig, KVEncoder, select_layers
from kvembed.models import portable_name
from kvembed.mteb import MTEBEncoder
from pipelines.evaluation.baselines import beside_config
from pipelines.stdlib_docs import stdlib_documents

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

MODELS = ("Qwen/Qwen3-4B", "mistralai/Mistral-7B-v0.1", "meta-llama/Llama-3.1-8B")
SYSTEMS = ("kv-rerouting", "no-rerouting", "last-token", "mean", "prompt-eol", "echo", "token-prepending")
BENCHMARK = "MTEB(eng, v2)"
CLAIM = (
    "The paper's abstract claims up to 10 % over training-free baselines on MTEB with Qwen, Mistral and Llama "
    "backbones; its figures by model and task were not at hand, so no column of this table is the paper's."
)
_COPIES = {"echo": 2.0}
"""How many tokens of a text a method runs, where it is not one for each."""


@dataclass(frozen=True, slots=True)
class Row:
    """One system of one model."""

    model: str
    system: str
    scores: Mapping[str, float]
    seconds: float
    failures: tuple[str, ...] = ()

    def mean(self, tasks: Sequence[str]) -> float | None:
        """Mean over the tasks, where all are there."""
        return sum(self.scores[task] for task in tasks) / len(tasks) if all(t in self.scores for t in tasks) else None


def paragraphs() -> list[str]:
    """Texts that every machine has, to choose layers by and to measure speed on."""
    parts = (part for _, text in stdlib_documents() for part in text.split("\n\n"))
    return list(dict.fromkeys(part for part in parts if len(part.split()) >= 8))


def loaded(options: argparse.Namespace, model: str) -> KVEncoder:
    """Load a model and give it its layers: those of an earlier run, or new ones, which are kept."""
    config = EncoderConfig(model, dtype=options.dtype, max_length=options.max_length)
    encoder = KVEncoder(config, device=options.device)
    kept = options.output / "layers" / f"{encoder.bare().with_layers(()).fingerprint}.json"
    if not kept.is_file():
        profile = select_layers(encoder, paragraphs())
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"model": model, **profile.to_dict()}, indent=2) + "\n")
    return encoder.with_layers(json.loads(kept.read_text())["layers"])


def systems(encoder: KVEncoder, names: Sequence[str]) -> Iterator[tuple[str, KVEncoder]]:
    """Yield what stands in the table, over the same weights."""
    for name in names:
        yield name, encoder if name == "kv-rerouting" else encoder.with_config(beside_config(name, encoder.config))


def measured_speed(encoder: KVEncoder, seconds: float = 10.0) -> float:
    """Tokens per second, prompts included, on real paragraphs, after one pass that is not counted."""
    texts = paragraphs()
    encoder.encode_document(texts[:32])
    tokens, done, started = 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds and done < len(texts):
        tokens += int(encoder.encode_counted(texts[done : done + 256], "document").tokens.sum())
        done += 256
    return tokens / (spent or 1e-9)


def rows(options: argparse.Namespace, tasks: Sequence[AbsTask]) -> Iterator[Row]:
    """Yield each system's scores as they are there; tasks of an earlier run are not run again."""
    cache = mteb.ResultCache(options.output)
    for model in options.models:
        with loaded(options, model) as encoder:
            for name, system in systems(encoder, options.systems):
                started = time.perf_counter()
                found = mteb.evaluate(MTEBEncoder(system), tasks, cache=cache, co2_tracker=False, raise_error=False)
                scores = {result.task_name: float(result.get_score()) for result in found.task_results}
                failures = tuple(f"{one.task_name}: {one.exception}" for one in found.exceptions or ())
                yield Row(portable_name(model), name, scores, time.perf_counter() - started, failures)


def table(found: Sequence[Row], tasks: Sequence[str]) -> str:
    """Write the rows as Markdown: mean and tasks in percent, and the mean above the best baseline in points."""
    lines = [f"| model | system | mean | {' | '.join(tasks)} |", "|---" * (3 + len(tasks)) + "|"]
    for row in found:
        mean = row.mean(tasks)
        cells = [f"{100 * row.scores[task]:.2f}" if task in row.scores else "" for task in tasks]
        lines.append(
            f"| {row.model} | {row.system} | {'' if mean is None else f'{100 * mean:.2f}'} | {' | '.join(cells)} |"
        )
    for model in dict.fromkeys(row.model for row in found):
        means = {row.system: row.mean(tasks) for row in found if row.model == model}
        others = {name: mean for name, mean in means.items() if name != "kv-rerouting" and mean is not None}
        own = means.get("kv-rerouting")
        if others and own is not None:
            best = max(others, key=lambda name: others[name])
            lines += [
                "",
                f"{model}: kv-rerouting is {100 * (own - others[best]):+.2f} points from {best}, the best other.",
            ]
    return "\n".join([*lines, "", CLAIM, ""])


def estimates(options: argparse.Namespace, tasks: Sequence[AbsTask]) -> str:
    """Write how many tokens and hours a whole run takes, per model."""
    counted = {task.metadata.name: tokens_of(task, options.max_length) for task in tasks}
    unknown = [name for name, tokens in counted.items() if tokens is None]
    tokens = sum(number for number in counted.values() if number is not None)
    passes = sum(_COPIES.get(name, 1.0) for name in options.systems)
    lines = ["| model | tokens/s | tokens of a system | hours of a system | hours of all |", "|---|---|---|---|---|"]
    for model in options.models:
        speed = options.tokens_per_second
        if speed is None:
            with loaded(options, model) as encoder:
                speed = measured_speed(encoder)
        hours = tokens / speed / 3600
        lines.append(f"| {model} | {speed:,.0f} | {tokens:,.0f} | {hours:,.1f} | {hours * passes:,.1f} |")
    notes = [
        f"{len(tasks)} tasks, {len(options.systems)} systems. Texts as mteb counts them, repeats included,",
        "4 characters a token and 12 tokens of prompt; where the mean of a kind of text is over the limit of",
        f"{options.max_length} tokens, the limit. Echo runs each text twice. Not in it: downloads, scoring,",
        "classifiers.",
        *([f"Without counts, and so not in it: {', '.join(unknown)}."] if unknown else []),
    ]
    return "\n".join([*lines, "", *notes, ""])


def parsed() -> argparse.Namespace:
    """Read the command line; a rehearsal is the bundled model over local tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"hub ids or folders (default {' '.join(MODELS)})")
    parser.add_argument(
        "--systems", nargs="+", default=SYSTEMS, choices=(*SYSTEMS, "static"), help="default: all but static"
    )
    parser.add_argument("--tasks", nargs="+", help=f"names of mteb's tasks (default: those of {BENCHMARK})")
    parser.add_argument("--device", help="as kvembed takes it (default: a GPU if there is one)")
    parser.add_argument("--dtype", default="bfloat16", help="arithmetic (default bfloat16)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens a text, prompt included (default 512)")
    parser.add_argument("--output", type=Path, default=Path("mteb-results"), help="folder of results and table.md")
    parser.add_argument("--estimate", action="store_true", help="tell how long it takes, and run nothing")
    parser.add_argument("--tokens-per-second", type=float, help="for --estimate (default: measured on each model)")
    parser.add_argument("--rehearse", action="store_true", help="the bundled model over two local tasks, offline")
    options = parser.parse_args()
    if options.tokens_per_second is not None and options.tokens_per_second <= 0:
        parser.error(f"--tokens-per-second is {options.tokens_per_second:g}; it must be above 0")
    if options.rehearse:
        options.models, options.dtype = (DEMO_MODEL,), "float32"
    return options


def chosen_tasks(options: argparse.Namespace) -> list[AbsTask]:
    """Return the tasks to run."""
    if options.rehearse:
        return local_tasks()
    if options.tasks:
        return list(mteb.get_tasks(tasks=options.tasks, languages=["eng"]))
    return list(mteb.get_benchmark(BENCHMARK).tasks)


def main() -> int:
    """Print the table, or the estimate, and keep it in the results' folder; return 1 if a task failed."""
    options = parsed()
    tasks = chosen_tasks(options)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.estimate:
        text = estimates(options, tasks)
        (options.output / "estimate.md").write_text(text)
        print(text)
        return 0
    names = [task.metadata.name for task in tasks]
    found: list[Row] = []
    for row in rows(options, tasks):
        found.append(row)
        (options.output / "table.md").write_text(table(found, names))
        print(f"{row.model} {row.system}: {row.seconds:.0f} s", flush=True)
        for failure in row.failures:
            print(f"  failed, run again to try again: {failure}", flush=True)
    print("\n" + table(found, names))
    return int(any(row.failures for row in found))


if __name__ == "__main__":
    sys.exit(main())

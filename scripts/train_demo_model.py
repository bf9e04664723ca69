"""Train the small bundled model: `python scripts/train_demo_model.py --corpus A.jsonl.xz ... --out FOLDER`.

Any JSONL with a `text` (and optionally a `title`) per line will do. The run can be killed at any point and continues
where it was when it is started again with the same arguments. The defaults are those of the shipped weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from demo_training.batches import TopicBatches  # noqa: E402
from demo_training.bigrams import bigram_model  # noqa: E402
from demo_training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from demo_training.contrast_stage import ContrastTraining, Materials, Progress  # noqa: E402
from demo_training.cooccurrence import ppmi_factors  # noqa: E402
from demo_training.corpus import Article, CorpusError, read_articles  # noqa: E402
from demo_training.decoder import build_decoder  # noqa: E402
from demo_training.publish import publish  # noqa: E402
from demo_training.recipe import Recipe  # noqa: E402
from demo_training.static_stage import StaticState, initial_vectors, train_static  # noqa: E402
from demo_training.tokens import END_OF_TEXT, PADDING, TokenCorpus, tokenise, train_tokenizer  # noqa: E402

_log = logging.getLogger("train_demo_model")


def main() -> int:
    """Run all stages that are not done yet."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        _train(arguments)
    except (CorpusError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


class SettingsError(ValueError):
    """The work folder belongs to another run, or the corpus is too small."""


def _train(arguments: argparse.Namespace) -> None:
    recipe = _recipe(arguments)
    work: Path = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    _claim(work, recipe, arguments.corpus + arguments.validation)
    tokenizer, corpus, validation = _tokens(work, arguments, recipe)
    vectors = _static_vectors(work, corpus, tokenizer, recipe)
    topics = TopicBatches(corpus, vectors.numpy(), recipe.topics, recipe.seed)
    pieces = tokenizer.get_vocab()
    bigrams = bigram_model(corpus, len(pieces), recipe.bigram_rank, recipe.seed)
    model = build_decoder(vectors, bigrams, recipe, pieces[END_OF_TEXT], pieces[PADDING]).to(arguments.device)

    def keep(better: LlamaForCausalLM, progress: Progress) -> None:
        size = publish(better, tokenizer, arguments.out)
        _log.info("wrote %s: %d bytes, validation %.4f", arguments.out, size, progress.validation)

    training = ContrastTraining(model, Materials(corpus, validation, topics, tokenizer), recipe, work, keep)
    training.run()
    summary = {"corpus_tokens": len(corpus.ids), "articles": corpus.size, **asdict(training.progress)}
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _log.info("done: %s", summary)


def _tokens(work: Path, arguments: argparse.Namespace, recipe: Recipe) -> tuple[Tokenizer, TokenCorpus, TokenCorpus]:
    paths = [work / name for name in ("tokenizer.json", "corpus.npz", "validation.npz")]
    if not all(path.exists() for path in paths):
        articles = list(read_articles(arguments.corpus))
        _log.info("%d articles", len(articles))
        tokenizer = train_tokenizer(_sample(articles, recipe), recipe.vocabulary)
        tokenise(articles, tokenizer).save(paths[1])
        tokenise(read_articles(arguments.validation), tokenizer).save(paths[2])
        # Last and in one step: whoever finds a tokenizer finds the token files complete.
        _write(paths[0], tokenizer.to_str())
    tokenizer, corpus, validation = (
        Tokenizer.from_file(str(paths[0])),
        TokenCorpus.load(paths[1]),
        TokenCorpus.load(paths[2]),
    )
    if corpus.size < 100 or validation.size < 2:
        raise SettingsError(
            f"the corpus has {corpus.size} articles of two sentences or more and the validation file "
            f"{validation.size}; give at least 100 and 2"
        )
    _log.info("%d tokens in %d articles, %d for validation", len(corpus.ids), corpus.size, validation.size)
    return tokenizer, corpus, validation


def _sample(articles: list[Article], recipe: Recipe) -> list[str]:
    chosen = random.Random(recipe.seed).sample(articles, min(len(articles), recipe.tokenizer_articles))
    return [f" {text}" for article in chosen for text in (article.title, *article.sentences)]


def _static_vectors(work: Path, corpus: TokenCorpus, tokenizer: Tokenizer, recipe: Recipe) -> torch.Tensor:
    static = work / "static.pt"
    if (saved := load_checkpoint(static)) is not None and saved["step"] == recipe.static.steps:
        return cast("StaticState", saved)["weights"]
    start = work / "initial.pt"
    if (saved := load_checkpoint(start)) is None:
        factors = ppmi_factors(corpus, tokenizer.get_vocab_size(), recipe.width, recipe.seed)
        saved = {"vectors": initial_vectors(factors, corpus, tokenizer, recipe)}
        save_checkpoint(start, saved)
    vectors = cast("torch.Tensor", saved["vectors"])
    topics = TopicBatches(corpus, vectors.numpy(), recipe.topics, recipe.seed)
    return train_static(vectors, corpus, topics, recipe, static)


def _claim(work: Path, recipe: Recipe, files: list[Path]) -> None:
    """Refuse to continue a run that was started with other settings or files."""
    sources = [f"{path.name}:{path.stat().st_size if path.exists() else 0}" for path in files]
    digest = recipe.digest(sources)
    settings = work / "settings.json"
    started = settings.exists() and (work / "tokenizer.json").exists()
    if started and json.loads(settings.read_text(encoding="utf-8"))["digest"] != digest:
        raise SettingsError(
            f"{work} holds a run with other settings or corpus files; repeat its arguments, or give another --work"
        )
    work.mkdir(parents=True, exist_ok=True)
    _write(settings, json.dumps({"digest": digest, "sources": sources}) + "\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = replace(Recipe(), seed=arguments.seed)
    if arguments.vocabulary is not None:
        recipe = replace(recipe, vocabulary=arguments.vocabulary)
    if arguments.static_steps is not None:
        recipe = replace(recipe, static=replace(recipe.static, steps=arguments.static_steps))
    if arguments.minutes is not None:
        recipe = replace(recipe, contrast=replace(recipe.contrast, minutes=arguments.minutes))
    return recipe


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="JSONL files to train on, plain or .xz")
    parser.add_argument("--validation", type=Path, nargs="+", required=True, help="JSONL files kept out of training")
    parser.add_argument("--out", type=Path, required=True, help="folder the model is written to")
    parser.add_argument("--work", type=Path, help="folder for checkpoints (default: OUT.work)")
    parser.add_argument("--minutes", type=float, help="minutes of the decoder stage, all restarts together")
    parser.add_argument("--static-steps", type=int, help="steps of the static stage")
    parser.add_argument("--vocabulary", type=int, help="pieces of the tokenizer")
    parser.add_argument("--device", default="cpu", help="torch device of the decoder stage (default: cpu)")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

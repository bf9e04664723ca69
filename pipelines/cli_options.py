"""What the commands share: their options, as types that say how each is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

import typer

from pipelines.console import LogFormat, Terminal

LayerChoice: TypeAlias = Literal["auto"] | tuple[int, ...]

_ENCODER = "Encoder (when not given: as the collection has it)"
_CHUNKING = "Reading and cutting"
_OUTPUT = "Output"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_layers(text: str | None) -> LayerChoice | None:
    """Read `auto`, `none` or numbers such as `2,3`; None stays None.

    Raises:
        typer.BadParameter: anything else.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if words == ["auto"]:
        return "auto"
    if words in (["none"], ["()"]):
        return ()
    if not all(word.isascii() and word.isdigit() for word in words):
        raise typer.BadParameter(f"{text!r} is neither auto, nor none, nor layer numbers such as 2,3")
    return tuple(sorted({int(word) for word in words}))


def parse_duration(text: str) -> timedelta:
    """Read a number and its unit, such as `30m`, `12h`, `7d` or `0s`.

    Raises:
        typer.BadParameter: anything else, or longer than Python counts.
    """
    found = re.fullmatch(r"([0-9]+)([smhd])", text.strip())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no length of time; give a number and s, m, h or d, such as 30m, 12h or 7d")


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


def _checked_layers(text: str | None) -> str | None:
    parse_layers(text)
    return text


Source: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder or file, a .jsonl or .parquet file, or hf:NAME[:CONFIG][:SPLIT].",
        show_default=False,
    ),
]
Collection: TypeAlias = Annotated[
    str,
    typer.Option("--collection", "-c", metavar="NAME", help="Collection to fill.", show_default=False),
]
Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Collection.", show_default=False)]
Store: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH|URL",
        help="Folder of an embedded store, or URL of a Qdrant server.",
        show_default="./.kvembed",
    ),
]
Wait: TypeAlias = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0.0,
        show_default="0",
        help="Wait so long for another run that is writing.",
    ),
]
Grace: TypeAlias = Annotated[
    str,
    typer.Option(
        "--grace",
        metavar="TIME",
        callback=_checked_duration,
        help="Keep what was in use less than this ago: 30m, 12h, 7d; 0s keeps nothing.",
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Folder in Hugging Face layout, or hub id.",
        show_default="the bundled demo model",
        rich_help_panel=_ENCODER,
    ),
]
StoredModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where the collection's model lies, if it was moved.",
        show_default=False,
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option("--revision", metavar="NAME", help="Branch, tag or commit of a hub model.", rich_help_panel=_ENCODER),
]
MethodChoice: TypeAlias = Annotated[
    Literal["kv-rerouting", "last-token", "mean", "static", "prompt-eol", "echo", "token-prepending"] | None,
    typer.Option(
        "--method",
        help="What is computed; another brings its own prompts, pooling and layers.",
        show_default="kv-rerouting",
        rich_help_panel=_ENCODER,
    ),
]
Layers: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="auto|none|2,3",
        callback=_checked_layers,
        help="Re-routing layers; auto chooses them from the corpus.",
        show_default="auto",
        rich_help_panel=_ENCODER,
    ),
]
PrefixBias: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--prefix-bias",
        metavar="BIAS",
        help="Added to the logit of the re-routed slot.",
        show_default="1.0",
        rich_help_panel=_ENCODER,
    ),
]
MaxLength: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="N",
        min=1,
        help="Tokens per sequence, prompt included.",
        show_default="512",
        rich_help_panel=_ENCODER,
    ),
]
Dtype: TypeAlias = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(
        "--dtype",
        help="Arithmetic of the forward pass.",
        show_default="float32",
        rich_help_panel=_ENCODER,
    ),
]
ModelQuantization: TypeAlias = Annotated[
    Literal["none", "int8", "nf4"] | None,
    typer.Option(
        "--model-quantization",
        help="Hold the model's weights in 8 or 4 bits; needs kvembed\\[quantization].",
        show_default="none",
        rich_help_panel=_ENCODER,
    ),
]
PoolingChoice: TypeAlias = Annotated[
    Literal["hybrid", "mean", "last_token"] | None,
    typer.Option(
        "--pooling",
        help="How states become one vector.",
        show_default="hybrid",
        rich_help_panel=_ENCODER,
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda:1, cuda for every GPU, or several: cuda:0,cuda:1.",
        show_default="a GPU if there is one",
        rich_help_panel=_ENCODER,
    ),
]
MaxTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        min=8,
        help="Tokens per chunk.",
        show_default="256",
        rich_help_panel=_CHUNKING,
    ),
]
OverlapTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--overlap-tokens",
        metavar="N",
        min=0,
        help="What a chunk may repeat of the one before.",
        show_default="0",
        rich_help_panel=_CHUNKING,
    ),
]
Context: TypeAlias = Annotated[
    Literal["title", "none"] | None,
    typer.Option(
        "--context",
        help="What is embedded before a chunk.",
        show_default="title",
        rich_help_panel=_CHUNKING,
    ),
]


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """Options that say where a row of records keeps what; None means not given."""

    id_field: Annotated[
        str | None,
        typer.Option("--id-field", metavar="NAME", help="Field that holds a row's id.", rich_help_panel=_CHUNKING),
    ] = None
    text_field: Annotated[
        str | None,
        typer.Option("--text-field", metavar="NAME", help="Field that holds a row's text.", rich_help_panel=_CHUNKING),
    ] = None
    title_field: Annotated[
        str | None,
        typer.Option(
            "--title-field", metavar="NAME", help="Field that holds a row's title.", rich_help_panel=_CHUNKING
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Output:
    """Options that say what a command prints."""

    json_mode: Annotated[
        bool,
        typer.Option("--json", help="One JSON document on stdout, nothing else there.", rich_help_panel=_OUTPUT),
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_OUTPUT)] = (
        False
    )
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Each stage and its seconds on stderr; -vv also what libraries log.",
            rich_help_panel=_OUTPUT,
        ),
    ] = 0

    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            "--log-format",
            help="json logs to stderr, one object a line.",
            show_default="text",
            rich_help_panel=_OUTPUT,
        ),
    ] = None

    def terminal(self) -> Terminal:
        """Return the context in which the command runs."""
        return Terminal(json_mode=self.json_mode, debug=self.debug, verbosity=self.verbose, log_format=self.log_format)

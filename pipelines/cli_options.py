"""What the commands share: their options, and the encoder those options describe."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

LayerChoice: TypeAlias = Literal["auto"] | tuple[int, ...]

_ENCODER = "Encoder (when not given: as the collection has it)"
_CHUNKING = "Reading and cutting"
_OUTPUT = "Output"


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
    typer.Option("--revision", help="Branch, tag or commit of a hub model.", rich_help_panel=_ENCODER),
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
        help="Added to the logit of the re-routed slot.",
        show_default="1.0",
        rich_help_panel=_ENCODER,
    ),
]
MaxLength: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-length",
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
        help="cpu, cuda, cuda:1 …",
        show_default="a GPU if there is one",
        rich_help_panel=_ENCODER,
    ),
]
MaxTokens: TypeAlias = Annotated[
    int | None,
    typer.Option("--max-tokens", min=8, help="Tokens per chunk.", show_default="256", rich_help_panel=_CHUNKING),
]
IdField: TypeAlias = Annotated[
    str | None, typer.Option("--id-field", help="Field that holds a row's id.", rich_help_panel=_CHUNKING)
]
TextField: TypeAlias = Annotated[
    str | None, typer.Option("--text-field", help="Field that holds a row's text.", rich_help_panel=_CHUNKING)
]
TitleField: TypeAlias = Annotated[
    str | None, typer.Option("--title-field", help="Field that holds a row's title.", rich_help_panel=_CHUNKING)
]
Delete: TypeAlias = Annotated[
    Literal["guarded", "all", "none"],
    typer.Option(
        "--delete",
        help="Documents gone from the source: delete unless they are many, delete all of them, or keep them.",
        rich_help_panel=_CHUNKING,
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on stdout, nothing else there.", rich_help_panel=_OUTPUT),
]
Debug: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_OUTPUT)
]
Verbose: TypeAlias = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        help="Each stage and its seconds on stderr; -vv also what libraries log.",
        rich_help_panel=_OUTPUT,
    ),
]

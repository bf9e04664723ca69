"""How many chunks one edit in the middle of a long document makes to embed again.

    python -m benchmarks.chunk_reuse [--edits 20] [--json]

The document is documentation of the Python standard library, some 200 chunks of 256 tokens of the bundled model: with
its headings, without them, with one line per paragraph, and as a single line. Each edit is made at random places in
the middle half, one at a time; the figures are the median and the worst. "Filled" is the mean share of the budget that
a chunk takes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from random import Random

from kvembed import DEMO_MODEL, KVEncoder
from pipelines.chunking import Chunker, ChunkingConfig
from pipelines.documents import Chunk, Document
from pipelines.parsing import parse
from pipelines.stdlib_docs import stdlib_documents
from tests.pipelines.prose import EDITS

CHARACTERS = 160_000
_PROBE = "\n\n# probe\n"


@dataclass
class Reuse:
    """Of one document: how it is cut, and by edit the median and the largest number of chunks to embed."""

    chunks: int
    filled: float
    changed: dict[str, tuple[float, int]] = field(default_factory=dict)


def long_text() -> str:
    """Join modules in name order; one that leaves a block of Markdown open would swallow the headings behind it."""
    text = ""
    for _, part in stdlib_documents():
        if len(text) < CHARACTERS and parse((part + _PROBE).encode(), ".md").headings[-1].title == "probe":
            text += f"{part}\n\n"
    return text


def layouts() -> dict[str, str]:
    """Return the text in each form, by file name."""
    text = long_text()
    plain = re.sub(r"(?m)^#+ ", "", text)
    lines = re.sub(r"(?<!\n)\n(?!\n)", " ", plain)
    return {
        "headings.md": text,
        "no headings.md": plain,
        "paragraphs.txt": plain,
        "lines.txt": re.sub(r"\n+", "\n", lines),
        "one line.txt": re.sub(r"\s+", " ", plain),
    }


def cut(chunker: Chunker, name: str, text: str) -> list[Chunk]:
    """Cut a text as a file of that name is cut."""
    parsed = parse(text.encode(), name[name.rindex(".") :])
    return list(chunker.chunks(Document(name, parsed.text, name, headings=parsed.headings, format=parsed.format)))


def measure(encoder: KVEncoder, name: str, text: str, edits: int) -> Reuse:
    """Make every kind of edit at random places and count the chunks that were not there before."""
    chunker = Chunker(ChunkingConfig(), encoder)
    before = cut(chunker, name, text)
    known = Counter(chunk.content_hash for chunk in before)
    taken = [len(encoder.tokenizer.encode(chunk.embedded_text, add_special_tokens=False)) for chunk in before]
    reuse = Reuse(len(before), statistics.fmean(taken) / chunker.budget)
    for edit in EDITS.values():
        after = [cut(chunker, name, edit(text, Random(seed))) for seed in range(edits)]
        changed = [sum((Counter(chunk.content_hash for chunk in chunks) - known).values()) for chunks in after]
        reuse.changed[edit.__name__] = (statistics.median(changed), max(changed))
    return reuse


def main() -> None:
    """Measure every layout and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=20, help="of each kind (default 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    encoder = KVEncoder.from_pretrained(DEMO_MODEL, device="cpu")
    found = {name: measure(encoder, name, text, options.edits) for name, text in layouts().items()}
    if options.json:
        print(json.dumps({name: asdict(reuse) for name, reuse in found.items()}, indent=2))
        return
    names = [name.replace("_", " ") for name in EDITS]
    print(f"{'':16} {'chunks':>6} {'filled':>7}" + "".join(f" {name:>18}" for name in names))
    for name, reuse in found.items():
        changed = "".join(f" {f'{middle:g} / {worst}':>18}" for middle, worst in reuse.changed.values())
        print(f"{name:16} {reuse.chunks:6} {reuse.filled:7.1%}{changed}")
    print(f"\nchunks to embed after one edit, median / worst of {options.edits}")


if __name__ == "__main__":
    main()

"""Write where fixed texts are cut; a change of these without a higher `ChunkingConfig.rules` is a defect.

    python -m tests.golden.make_spans

A collection filled before such a change would mix chunks of two kinds: unchanged documents keep the old ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.chunking import Chunker, ChunkingConfig
from pipelines.documents import Document
from pipelines.parsing import parse
from tests.pipelines.prose import prose

SPANS_FILE = Path(__file__).with_name("chunk_spans.json")

MARKDOWN = """---
title: Of gears
---

# Gears

A gear turns another. Their teeth meet at a line, and slip along it; so they need oil.

| teeth | turns |
|------:|------:|
| 20 | 1 |
| 40 | 0.5 |

## Cutting

1. Choose a blank, round to a hundredth.
2. Cut one tooth; *measure it*.
   - The depth, by a pin.
   - The width, by a gauge.
3. Cut the rest.

```python
def ratio(driving: int, driven: int) -> float:
    # teeth over teeth
    return driven / driving
```

### Oil

See [the table](#gears). Thin for fast gears, thick for slow ones.

> No oil, no gear.

Last words
==========

Keep them clean.
"""

RST = """=====
Gears
=====

A gear turns another::

    ratio = driven / driving

Cutting
-------

.. note:: Measure each tooth before the next.

* by a pin
* by a gauge, for which see below; it is the slower way and the better one, and needs a steady hand.

Oil
---

Thin for fast gears, thick for slow ones. None for show.
"""

CODE = '''"""Ratios of gears."""

import math


class Gear:
    """A wheel with teeth."""

    def __init__(self, teeth: int) -> None:
        if teeth < 3:
            raise ValueError(f"{teeth} teeth; at least 3")
        self.teeth = teeth

    def ratio(self, other: "Gear") -> float:
        return other.teeth / self.teeth


def angle(gear: Gear) -> float:
    return 2 * math.pi / gear.teeth
'''

SCRIPTS = (
    "東京は日本の首都です。人口は約千四百万人。電車はとても便利です！でも、朝は混みます。\n"
    "שלום עולם. זה משפט שני.\r\n\r\nمرحبا بالعالم؟ نعم. "
    "Family: 👩‍👩‍👧 and flags 🇩🇪🇫🇷, e\u0301 and é, zero\u200bwidth. "
    "base64: " + "QUJD+/" * 60 + " and the end.\n"
)


@dataclass(frozen=True)
class Budget:
    """What chunking needs of an encoder."""

    tokenizer: Tokenizer
    document_budget: int = 480


def words() -> Tokenizer:
    """Count words and runs of signs."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def octets() -> Tokenizer:
    """Count bytes of UTF-8."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


TOKENIZERS = {"words": words, "bytes": octets}
TEXTS = {
    "paragraphs.txt": prose(1, 700, "paragraphs"),
    "lines.txt": prose(2, 700, "lines"),
    "sentences.txt": prose(3, 700, "sentences"),
    "headings.md": prose(4, 700, "headings"),
    "gears.md": MARKDOWN,
    "gears.rst": RST,
    "gears.py": CODE,
    "scripts.txt": SCRIPTS,
}
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "words": [{"max_tokens": 16}, {"max_tokens": 24, "overlap_tokens": 8, "context": "none"}],
    "bytes": [{"max_tokens": 80}],
}


def spans(name: str, text: str, tokenizer: str, config: dict[str, Any]) -> list[list[int]]:
    """Cut one text: start and end of every chunk."""
    parsed = parse(text.encode(), name[name.index(".") :])
    document = Document("a", parsed.text, name, "Of gears", headings=parsed.headings, format=parsed.format)
    chunker = Chunker(ChunkingConfig(**config), Budget(TOKENIZERS[tokenizer]()))
    return [[chunk.start, chunk.end] for chunk in chunker.chunks(document)]


def golden_spans() -> dict[str, Any]:
    """Cut every text in every way."""
    cases = [
        {"name": name, "tokenizer": tokenizer, "config": config, "spans": spans(name, text, tokenizer, config)}
        for name, text in TEXTS.items()
        for tokenizer, configs in CONFIGS.items()
        for config in configs
    ]
    return {"rules": ChunkingConfig.rules, "texts": TEXTS, "cases": cases}


def moved(stored: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """Name the texts of which stored and made agree and which are cut elsewhere now."""
    same = {name for name, text in stored["texts"].items() if made["texts"].get(name) == text}
    return sorted({case["name"] for case in stored["cases"] if case["name"] in same and case not in made["cases"]})


if __name__ == "__main__":
    made = golden_spans()
    if SPANS_FILE.exists():
        stored = json.loads(SPANS_FILE.read_text())
        if stored["rules"] == made["rules"] and (names := moved(stored, made)):
            raise SystemExit(
                f"{names} are cut elsewhere than by rules {made['rules']}; raise ChunkingConfig.rules first"
            )
    lines = ",\n".join(json.dumps(case) for case in made.pop("cases"))
    SPANS_FILE.write_text(f'{json.dumps(made)[:-1]}, "cases": [\n{lines}\n]}}\n')

"""Three editions of a small corpus."""

from __future__ import annotations

from pipelines import ChunkingConfig, Document

CHUNKING = ChunkingConfig(max_tokens=12)


def edition(number: int) -> list[Document]:
    """Every edition adds, drops and edits documents; some stay as they are."""
    found = []
    for index in range(60):
        if index % 5 == number:
            continue
        version = number if index % 3 == 0 else 0
        sections = [f"Document{index} Part{part} Version{version if part % 2 else 0}" for part in range(8)]
        text = "\n\n".join(f"{section} has a paragraph of its own." for section in sections)
        found.append(Document(f"d{index}", text, f"d{index}.txt"))
    return found

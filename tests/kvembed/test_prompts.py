"""Truncation keeps the prompt's end, whatever the content."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvembed.errors import ConfigError
from kvembed.prompts import CompressionPrompt, plain_tokenizer
from tests.conftest import train_tokenizer

TEMPLATE = "Context: {text} Compress the Context in one word:"
TOKENIZER = plain_tokenizer(train_tokenizer().backend_tokenizer.to_str())
TAIL = TOKENIZER.encode(" Compress the Context in one word:", add_special_tokens=False).ids


@settings(deadline=None)
@given(text=st.text(max_size=300))
def test_prompt_over_the_limit_keeps_start_and_end(text: str) -> None:
    prompt = CompressionPrompt(TEMPLATE, TOKENIZER, max_length=32)
    whole = TOKENIZER.encode(TEMPLATE.replace("{text}", text)).ids
    (prompted,) = prompt.apply([text])
    assert len(prompted.ids) == min(32, len(whole))
    assert prompted.truncated_tokens == max(0, len(whole) - 32)
    assert prompted.ids[-len(TAIL) + 1 :] == whole[-len(TAIL) + 1 :]
    kept = len(prompted.ids) - len(TAIL)
    assert prompted.ids[:kept] == whole[:kept]


@settings(deadline=None)
@given(text=st.text(max_size=300))
def test_prompt_of_text_within_the_budget_is_never_cut(text: str) -> None:
    prompt = CompressionPrompt(TEMPLATE, TOKENIZER, max_length=96)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    if len(ids.ids) > prompt.budget:
        text = text[: ids.offsets[prompt.budget - 1][0]]
    assert prompt.apply([text])[0].truncated_tokens == 0


def test_prompt_with_braces_in_text_is_taken_literally() -> None:
    prompt = CompressionPrompt(TEMPLATE, TOKENIZER, max_length=96)
    (prompted,) = prompt.apply(["{text} {0} {missing}"])
    assert prompted.ids == TOKENIZER.encode("Context: {text} {0} {missing} Compress the Context in one word:").ids


def test_prompt_that_leaves_no_room_is_refused() -> None:
    overhead = CompressionPrompt(TEMPLATE, TOKENIZER, max_length=500).overhead
    with pytest.raises(ConfigError, match=f"alone takes {overhead} tokens; raise max_length"):
        CompressionPrompt(TEMPLATE, TOKENIZER, max_length=overhead)

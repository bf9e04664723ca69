"""Compression prompts: text -> token ids, cut in the content and never in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tokenizers import Encoding as TokenizerEncoding
from tokenizers import Tokenizer

from kvembed.errors import ConfigError

Role: TypeAlias = Literal["query", "document"]

_SEAM_TOKENS = 4
"""Spare tokens of a budget: a text tokenised alone may take a token more or less at each seam with the prompt."""


@dataclass(frozen=True, slots=True)
class PromptedText:
    """One text inside its prompt, as token ids.

    Attributes:
        ids: Token ids, special tokens and prompt included, at most max_length of them.
        truncated_tokens: Content tokens that were cut, 0 if the text fitted.
    """

    ids: list[int]
    truncated_tokens: int


class CompressionPrompt:
    """Wraps texts as `{Role}: {text} Compress the {Role} in one word:` under a token limit.

    Args:
        template: Text with `{text}` in it once.
        tokenizer: A tokenizer without padding or truncation of its own.
        max_length: Largest number of tokens, special tokens included.

    Raises:
        ConfigError: the prompt alone leaves no room for content.
    """

    def __init__(self, template: str, tokenizer: Tokenizer, max_length: int) -> None:
        self._before, _, self._after = template.partition("{text}")
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.overhead = len(tokenizer.encode(self._wrap("")).ids)
        if self.overhead == 0:
            raise ConfigError(f"the prompt {template!r} gives an empty text no token at all; add words around {{text}}")
        if self.overhead >= max_length:
            raise ConfigError(
                f"max_length is {max_length}, but the prompt {template!r} alone takes {self.overhead} tokens; "
                f"raise max_length above {self.overhead + _SEAM_TOKENS}"
            )

    @property
    def budget(self) -> int:
        """Content tokens that fit under the limit wherever the seams fall; at least 0."""
        return max(0, self._max_length - self.overhead - _SEAM_TOKENS)

    def apply(self, texts: Sequence[str]) -> list[PromptedText]:
        """Tokenise texts inside the prompt, in input order.

        What exceeds the limit is cut from the end of the content, so that the prompt's end, from which the last
        hidden state is read, is always there.
        """
        encodings = self._tokenizer.encode_batch([self._wrap(text) for text in texts])
        return [self._fit(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _wrap(self, text: str) -> str:
        return self._before + text + self._after

    def _fit(self, text: str, encoding: TokenizerEncoding) -> PromptedText:
        ids = encoding.ids
        excess = len(ids) - self._max_length
        if excess <= 0:
            return PromptedText(ids, 0)
        tail = self._tail_start(encoding, len(self._before) + len(text))
        return PromptedText(ids[: max(0, tail - excess)] + ids[tail:], excess)

    def _tail_start(self, encoding: TokenizerEncoding, content_end: int) -> int:
        """Index of the first token that belongs to the prompt's end, by character offsets."""
        special, offsets = encoding.special_tokens_mask, encoding.offsets  # each access copies the whole list
        tail = len(offsets)
        while tail > 0 and (special[tail - 1] or offsets[tail - 1][0] >= content_end):
            tail -= 1
        return tail


def plain_tokenizer(serialised: str) -> Tokenizer:
    """Build the tokenizer that encoder and chunker share.

    It neither pads nor cuts, and reads the names of special tokens in a text as text, so that a document cannot
    smuggle in an end-of-text token.

    Args:
        serialised: JSON of a `tokenizers.Tokenizer`.
    """
    tokenizer = Tokenizer.from_str(serialised)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer

"""The training-free methods over one frozen decoder: what each is, and the prompts, poolings and layers it brings.

| method | prompt | passes through | pooled |
| --- | --- | --- | --- |
| kv-rerouting | compression prompt | the model, re-routed in some layers | hybrid |
| last-token | none | the stock model | last token |
| mean | none | the stock model | all tokens |
| static | none | no layer: the token embeddings | all tokens |
| prompt-eol | "means in one word" | the stock model | last token |
| echo | the text twice | the stock model | tokens of the second copy |
| token-prepending | the same, and a placeholder | the model, the placeholder rewritten | last token |

Sources, and the public code each was compared with; (r) marks what rests on that code and not on the paper, of which
only abstracts and summaries were at hand:

- prompt-eol: Jiang et al., arXiv 2307.16645, "explicit one word limitation"; kongds/scaling_sentemb at 8567aa0,
  `run_icl.sh` and `evaluation.py` (r: the template to the character, the last layer after its norm). Its evaluation
  also edits the sentences (a full stop at the end, single quotes for double ones); nothing of the text is edited here.
- echo: Springer et al., arXiv 2402.15449: the text stands twice and the second occurrence is pooled;
  jakespringer/echo-embeddings at c752c46, `example.py` (r: wording and instruction, which are those of its trained
  models; a space follows each colon, as that code's tokenizer puts a word boundary there; its end-of-text token is
  left out) and `EchoPooling` (mean, or last). Other instructions go into the templates, such as
  "Rewrite the sentence: {text}, rewritten sentence: {text}".
- token-prepending: Fu et al., arXiv 2412.11556 (ACL 2025, long 159); fuyuchenIfyw/token_prepending at cc41b58,
  `evaluate.py`, `senllm/modeling_llama.py` and `config.yaml` (r: template, layers, output layer, random placeholder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Literal, TypeAlias

from kvembed.config_checks import PLACEHOLDER, check_template, is_count
from kvembed.errors import ConfigError

Layers: TypeAlias = "Literal['auto'] | tuple[int, ...]"

PREPENDED = "<PST>"
"""Stands in a prompt of Token Prepending for the placeholder token, as the paper writes it."""


class Method(StrEnum):
    """What is computed over the frozen decoder; each has prompts and a pooling of its own."""

    KV_REROUTING = "kv-rerouting"
    """One pass with the last token's keys and values re-routed to every query (arXiv 2601.01046)."""
    LAST_TOKEN = "last-token"
    """The stock model, no prompt, h_n."""
    MEAN = "mean"
    """The stock model, no prompt, mean of all h_i."""
    STATIC = "static"
    """The token embeddings alone, before any layer, no prompt; their mean."""
    PROMPT_EOL = "prompt-eol"
    """The stock model, a prompt that asks for one word, h_n (arXiv 2307.16645)."""
    ECHO = "echo"
    """The stock model, the text twice, mean of the second copy's h_i (arXiv 2402.15449)."""
    TOKEN_PREPENDING = "token-prepending"
    """PromptEOL with each early layer's h_n written over a token before the text (arXiv 2412.11556)."""

    @classmethod
    def _missing_(cls, value: object) -> Method | None:
        spelled = str(value).replace("_", "-")
        return next((method for method in cls if method.value == spelled), None)


class Pooling(StrEnum):
    """How the hidden states h_1 .. h_n become one vector; of Echo those of the second copy alone."""

    HYBRID = "hybrid"
    """(h_n + mean of all h_i) / 2."""
    MEAN = "mean"
    """Mean of all h_i, prompt tokens included."""
    LAST_TOKEN = "last_token"
    """h_n alone."""

    @classmethod
    def _missing_(cls, value: object) -> Pooling | None:
        spelled = str(value).replace("-", "_")
        return cls.LAST_TOKEN if spelled in ("last", "last_token") else None


@dataclass(frozen=True, slots=True)
class Prepending:
    """Where Token Prepending writes, and what it reads.

    Raises:
        ConfigError: a field is not legal.

    Source: fuyuchenIfyw/token_prepending, `config.yaml`; the defaults are those of Llama-2-7B, which other models of
    the paper have lower (r).
    """

    first_layer: int = 1
    """First layer, counted from 0, whose input has h_n of the layer before in the placeholder's place (r)."""
    stop_layer: int = 7
    """First layer after it that has not; beyond the model's last layer means all (r)."""
    output_layer: int = -2
    """Which of transformers' `hidden_states` is read: l is the output of layer l - 1, -1 the last one after the
    model's norm, -2 the one before, without a norm (r)."""
    placeholder_seed: int = 0
    """Picks the placeholder's embedding: E standard normal numbers, which the public code draws anew in each run."""

    def __post_init__(self) -> None:
        if not is_count(self.first_layer):
            raise ConfigError(
                f"first_layer is {self.first_layer!r}; it must be a layer from 1 on, as 0 has none before"
            )
        if not is_count(self.stop_layer) or self.stop_layer <= self.first_layer:
            raise ConfigError(f"stop_layer is {self.stop_layer!r}; it must be above first_layer, {self.first_layer}")
        if not _is_whole(self.output_layer) or self.output_layer == 0:
            raise ConfigError(f"output_layer is {self.output_layer!r}; it must be a whole number other than 0")
        if not _is_whole(self.placeholder_seed) or self.placeholder_seed < 0:
            raise ConfigError(f"placeholder_seed is {self.placeholder_seed!r}; it must be a whole number, at least 0")

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of a model that get the placeholder rewritten."""
        return tuple(range(self.first_layer, min(self.stop_layer, num_layers)))

    def check_fit(self, num_layers: int) -> None:
        """Refuse layers that a model does not have.

        Raises:
            ConfigError: naming what came and what is legal.
        """
        if self.first_layer >= num_layers:
            raise ConfigError(f"first_layer is {self.first_layer}, but the model has layers 0..{num_layers - 1}")
        if not -num_layers <= self.output_layer <= num_layers:
            raise ConfigError(
                f"output_layer is {self.output_layer}, but the model has outputs 1..{num_layers} and {-num_layers}..-1"
            )

    @classmethod
    def from_dict(cls, record: Mapping[str, object]) -> Prepending:
        """Read the fields as JSON has them.

        Raises:
            ConfigError: an unknown field, or an illegal value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(record) - set(known)):
            raise ConfigError(f"unknown fields {unknown} of prepending; legal are {known}")
        return cls(**record)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a method brings where a configuration says nothing, and what it allows."""

    query_template: str
    document_template: str
    poolings: tuple[Pooling, ...]
    """Legal ones, its own first."""
    copies: int = 1
    """How often the text stands in the prompt; the last copy is pooled."""
    reroutes: bool = False
    prepends: bool = False
    bare: bool = True
    """Whether it is still itself with a prompt of the text alone."""

    def template(self, name: str) -> str:
        """Return its own template by the configuration's name of the field."""
        return self.query_template if name == "query_template" else self.document_template


_ONE_WORD = 'This sentence : "{text}" means in one word:"'
_PREPENDED_ONE_WORD = f'This sentence : {PREPENDED} "{{text}}" means in one word:"'

TRAITS: Mapping[Method, Traits] = {
    Method.KV_REROUTING: Traits(
        "Query: {text} Compress the Query in one word:",
        "Context: {text} Compress the Context in one word:",
        (Pooling.HYBRID, Pooling.MEAN, Pooling.LAST_TOKEN),
        reroutes=True,
    ),
    Method.LAST_TOKEN: Traits(PLACEHOLDER, PLACEHOLDER, (Pooling.LAST_TOKEN,)),
    Method.MEAN: Traits(PLACEHOLDER, PLACEHOLDER, (Pooling.MEAN,)),
    Method.STATIC: Traits(PLACEHOLDER, PLACEHOLDER, (Pooling.MEAN,)),
    Method.PROMPT_EOL: Traits(_ONE_WORD, _ONE_WORD, (Pooling.LAST_TOKEN,), bare=False),
    Method.ECHO: Traits(
        "Instruct: Retrieve passages that answer the question,\nQuery: {text}\nQuery again: {text}",
        "Document: {text}\nDocument again: {text}",
        (Pooling.MEAN, Pooling.LAST_TOKEN),
        copies=2,
    ),
    Method.TOKEN_PREPENDING: Traits(
        _PREPENDED_ONE_WORD, _PREPENDED_ONE_WORD, (Pooling.LAST_TOKEN,), prepends=True, bare=False
    ),
}
"""What each method brings."""


def checked_method(method: object) -> Method:
    """Return a method by its name."""
    try:
        return Method(str(method))
    except ValueError:
        raise ConfigError(f"method is {method!r}; legal are {', '.join(Method)}") from None


def stored_method(stored: str, arithmetic: int) -> str:
    """Read "kv-rerouting/1" of an identity, or "kv-rerouting".

    Args:
        stored: What stands there.
        arithmetic: Version that this package computes.
    """
    name, _, version = stored.partition("/")
    if version not in ("", str(arithmetic)):
        raise ConfigError(
            f"method is {stored!r}; this kvembed computes {name}/{arithmetic}; use the version that wrote it"
        )
    return name


def checked_for(method: Method, layers: Layers) -> Layers:
    """Return re-routing layers that a method may have."""
    if TRAITS[method].reroutes:
        return layers
    if layers not in ("auto", ()):
        raise ConfigError(f"layers is {layers!r}, but method {method.value!r} re-routes nowhere; leave layers out")
    return ()


def pooling_for(method: Method, pooling: object) -> Pooling:
    """Return a pooling that a method may have; its own for None."""
    legal = TRAITS[method].poolings
    if pooling is None:
        return legal[0]
    try:
        given = Pooling(str(pooling))
    except ValueError:
        raise ConfigError(f"pooling is {pooling!r}; legal are {', '.join(Pooling)}") from None
    if given not in legal:
        raise ConfigError(
            f"pooling is {given.value!r}, but method {method.value!r} pools by "
            f"{' or '.join(repr(one.value) for one in legal)}; leave pooling out"
        )
    return given


def template_for(method: Method, name: str, template: str) -> str:
    """Return a prompt that a method may have; its own for "".

    Another method's own prompt is refused: it got there by changing the method of a configuration and nothing else.

    Args:
        method: The method.
        name: "query_template" or "document_template".
        template: What is given.
    """
    traits = TRAITS[method]
    if not template or template == traits.template(name):
        return traits.template(name)
    check_template(name, template, traits.copies)
    for other, owner in TRAITS.items():
        if template == owner.template(name) and template != PLACEHOLDER:
            raise ConfigError(
                f"{name} is that of method {other.value!r}, but the method is {method.value!r}; "
                f"use config.with_method({method.value!r}), or leave {name} out"
            )
    if template == PLACEHOLDER and not traits.bare:
        raise ConfigError(f"{name} is {template!r}, but method {method.value!r} is its prompt; leave {name} out")
    before, _, after = template.partition(PLACEHOLDER)
    if traits.prepends and (before.count(PREPENDED), after.count(PREPENDED)) != (1, 0):
        raise ConfigError(f"{name} is {template!r}; it must have {PREPENDED} in it once, before {PLACEHOLDER}")
    return template


def prepending_for(method: Method, prepending: Prepending | None) -> Prepending | None:
    """Return what Token Prepending does; None for every other method."""
    if TRAITS[method].prepends:
        found = Prepending() if prepending is None else prepending
        if not isinstance(found, Prepending):
            raise ConfigError(f"prepending is {prepending!r}; give a Prepending, or None for its defaults")
        return found
    if prepending is not None:
        raise ConfigError(f"prepending is given, but method {method.value!r} prepends nothing; leave it out")
    return None


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)

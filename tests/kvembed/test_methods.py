"""The methods beside re-routing: as published, in batches, cut at the limit, in threads, each over the same weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kvembed import (
    ConfigError,
    EncoderConfig,
    KVEncoder,
    Method,
    Pooling,
    Prepending,
    PrependingNotAppliedError,
    UnsupportedModelError,
)
from kvembed.backbone import Backbone, load_backbone
from kvembed.forward import ForwardPass
from kvembed.methods import TRAITS
from kvembed.prompts import PromptedText, Role, plain_tokenizer, prompt_for
from tests import method_reference as reference
from tests.architectures import ARCHITECTURES, random_model
from tests.conftest import save_model, train_tokenizer

TEXTS = [
    "The boundary layer of a flat plate.",
    "gzip",
    "  \n\t ",
    "🙂👩‍👩‍👧 naïve café",
    "שלום עולם مرحبا بالعالم",
    'He said: "a {text} and <PST>", 12',
    "a long text about aerodynamics " * 6,
]
REFERENCES: dict[Method, Callable[[Path, str, Role], Tensor]] = {
    Method.LAST_TOKEN: lambda folder, text, _: reference.last_token(folder, text),
    Method.MEAN: lambda folder, text, _: reference.mean(folder, text),
    Method.STATIC: lambda folder, text, _: reference.static(folder, text),
    Method.PROMPT_EOL: lambda folder, text, _: reference.prompt_eol(folder, text),
    Method.ECHO: reference.echo,
    Method.TOKEN_PREPENDING: lambda folder, text, _: reference.token_prepending(folder, text),
}
TOKENIZER = plain_tokenizer(train_tokenizer().backend_tokenizer.to_str())


def encoder_of(folder: Path, method: Method, **fields: object) -> KVEncoder:
    """Build an encoder by a method; re-routing gets a layer."""
    layers: object = (1,) if TRAITS[method].reroutes else ()
    config = EncoderConfig(model=str(folder), method=method, layers=layers, **fields)  # type: ignore[arg-type]
    return KVEncoder(config, device="cpu")


@pytest.mark.parametrize("method", REFERENCES)
@pytest.mark.parametrize("role", ["query", "document"])
def test_encode_by_method_equals_its_published_description(tiny_model_dir: Path, method: Method, role: Role) -> None:
    encoder = encoder_of(tiny_model_dir, method, normalize=False)
    # The reference's tokenizer would split a text at the placeholder's name; that texts do not is tested below.
    texts = [text.replace("<PST>", "PST") for text in TEXTS]
    expected = torch.stack([REFERENCES[method](tiny_model_dir, text, role) for text in texts]).numpy()
    found = encoder.encode_counted(texts, role).vectors
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("method", Method)
def test_encode_by_method_in_a_batch_equals_alone(tiny_model_dir: Path, method: Method) -> None:
    encoder = encoder_of(tiny_model_dir, method)
    together = encoder.encode_document([*TEXTS, ""])
    alone = np.concatenate([encoder.encode_document([text]) for text in [*TEXTS, ""]])
    assert np.abs(together - alone).max() <= 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen3", "Gemma 2, soft-cap, window", "GPT-2, learned positions", "Falcon-H1, state space beside attention"),
        "Qwen3.5, linear attention",
    ],
)
def test_token_prepending_on_other_architectures_equals_the_reference(tmp_path: Path, name: str) -> None:
    """Scaled embeddings, learned positions, layers under another name, layers that mix by other means."""
    model_type, fields = ARCHITECTURES[name]
    model = random_model(model_type, {**fields, "vocab_size": 512}, "eager")
    folder = save_model(model, tmp_path)
    encoder = encoder_of(folder, Method.TOKEN_PREPENDING, normalize=False, max_length=256)
    expected = torch.stack([reference.token_prepending(folder, text) for text in TEXTS[:4]]).numpy()
    assert np.abs(encoder.encode_document(TEXTS[:4]) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("first", "stop", "output", "seed"), [(1, 2, -1, 0), (1, 7, 2, 0), (2, 4, -2, 0), (1, 3, 4, 0), (1, 7, -2, 9)]
)
def test_token_prepending_fields_mean_what_the_public_code_means(
    tiny_model_dir: Path, first: int, stop: int, output: int, seed: int
) -> None:
    given_fields = Prepending(first_layer=first, stop_layer=stop, output_layer=output, placeholder_seed=seed)
    encoder = encoder_of(tiny_model_dir, Method.TOKEN_PREPENDING, normalize=False, prepending=given_fields)
    text = TEXTS[0]
    expected = reference.token_prepending(tiny_model_dir, text, first=first, stop=stop, output=output, seed=seed)
    assert np.abs(encoder.encode_document([text])[0] - expected.numpy()).max() <= 1e-5 * float(expected.abs().max())
    default = encoder_of(tiny_model_dir, Method.TOKEN_PREPENDING, normalize=False).encode_document([text])[0]
    assert np.abs(default - expected.numpy()).max() > 1e-3


def test_echo_pools_the_last_token_when_asked(tiny_model_dir: Path) -> None:
    encoder = encoder_of(tiny_model_dir, Method.ECHO, normalize=False, pooling="last_token")
    before, between = reference.ECHO["document"]
    expected = reference.last_token(tiny_model_dir, before + TEXTS[0] + between + TEXTS[0])
    assert np.abs(encoder.encode_document(TEXTS[:1])[0] - expected.numpy()).max() <= 1e-4


def test_echo_of_words_behind_the_second_copy_pools_the_copy_alone(tiny_model_dir: Path) -> None:
    """With words behind it, the last token of the copy is not that of the sequence."""
    template = "Say: {text}\nAgain: {text}\nEnd."
    mean, last = (
        encoder_of(tiny_model_dir, Method.ECHO, normalize=False, document_template=template, pooling=pooling)
        for pooling in ("mean", "last_token")
    )
    model, tokenizer = reference.loaded(tiny_model_dir)
    encoding = tokenizer(template.replace("{text}", "flat plate"))
    start = len("Say: flat plate\nAgain: ")
    second = sorted({encoding.char_to_token(place) for place in range(start, start + len("flat plate"))})
    states = reference._hidden_states(model, encoding["input_ids"])[-1][0, second]
    assert np.abs(mean.encode_document(["flat plate"])[0] - states.mean(dim=0).numpy()).max() <= 1e-4
    assert np.abs(last.encode_document(["flat plate"])[0] - states[-1].numpy()).max() <= 1e-4


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=120), limit=st.integers(40, 90))
def test_echo_over_the_limit_cuts_both_copies_behind_one_character(text: str, limit: int) -> None:
    """What is left of either copy is the same beginning of the text, up to its end where no character was split."""
    prompt = prompt_for(Method.ECHO, TRAITS[Method.ECHO].document_template, TOKENIZER, limit)
    (prompted,) = prompt.apply([text])
    before, between = reference.ECHO["document"]
    whole = TOKENIZER.encode(before + text + between + text)
    assert len(prompted.ids) <= limit
    assert prompted.pooled is not None
    start, stop = prompted.pooled
    assert stop == len(prompted.ids)
    if not text:
        assert (start, stop) == (len(whole.ids) - 1, len(whole.ids))
        return
    decoded = TOKENIZER.decode(prompted.ids, skip_special_tokens=True)
    head, found, copy = decoded.partition(between)
    assert (found, head[: len(before)]) == (between, before)
    kept = head[len(before) :]
    assert text.startswith(kept)
    assert copy == kept
    if prompted.ids == whole.ids:
        assert (kept, prompted.truncated_tokens) == (text, 0)
        return
    assert 0 < prompted.truncated_tokens <= len(whole.ids) - len(prompted.ids)
    # No longer text would have fitted: with one more character of either copy the limit is passed.
    longest = max(len(TOKENIZER.encode(char, add_special_tokens=False).ids) for char in {*text})
    assert len(prompted.ids) + 2 * max(longest, 12) > limit


@pytest.mark.parametrize("method", Method)
def test_prompt_of_method_keeps_its_end_when_text_is_cut(method: Method) -> None:
    template = TRAITS[method].document_template
    prompt = prompt_for(method, template, TOKENIZER, 64)
    (cut,) = prompt.apply(["boundary layer " * 60])
    assert len(cut.ids) in (63, 64)
    assert cut.truncated_tokens > 0
    end = template.rpartition("{text}")[2]
    assert TOKENIZER.decode(cut.ids).endswith(end)


@pytest.mark.parametrize("method", Method)
def test_document_budget_of_method_keeps_content_whole(tiny_model_dir: Path, method: Method) -> None:
    """A text of exactly the budget's tokens is never cut, and its cost is what is said of it."""
    encoder = encoder_of(tiny_model_dir, method, max_length=96)
    words = "layer of a flat plate naïve 東京 12345 🙂 " * 20
    ids = encoder.tokenizer.encode(words, add_special_tokens=False)
    end = ids.offsets[encoder.document_budget - 1][1]
    encoding = encoder.encode_counted([words[:end]], "document")
    length = len(encoder.tokenizer.encode(words[:end], add_special_tokens=False).ids)
    assert encoding.truncated_tokens.tolist() == [0]
    assert abs(int(encoding.tokens[0]) - encoder.document_copies * length - encoder.document_overhead) <= 4
    over = encoder.encode_counted([words], "document")
    assert over.tokens[0] <= 96
    assert over.truncated_tokens[0] > 0


def test_echo_counts_the_cut_tokens_of_one_copy() -> None:
    prompt = prompt_for(Method.ECHO, "Say: {text} again: {text}", TOKENIZER, 60)
    content = len(TOKENIZER.encode(" gzip" * 100, add_special_tokens=False).ids)
    (cut,) = prompt.apply(["gzip" + " gzip" * 99])
    assert cut.pooled is not None
    assert cut.truncated_tokens + (cut.pooled[1] - cut.pooled[0]) == content


def test_echo_reads_white_space_of_trimmed_offsets_as_the_prompt() -> None:
    """Byte-level tokenizers say of a space's token that it is where the next one is; it still is the prompt's."""
    from tokenizers import Tokenizer, processors

    trimming = Tokenizer.from_str(TOKENIZER.to_str())
    trimming.post_processor = processors.ByteLevel(trim_offsets=True)
    found = []
    for tokenizer in (TOKENIZER, trimming):
        (prompted,) = prompt_for(Method.ECHO, "Say: {text} again: {text}", tokenizer, 60).apply(["  two"])
        assert prompted.pooled is not None
        found.append(tokenizer.decode(prompted.ids[slice(*prompted.pooled)]))
    assert found[0] == found[1] == "  two"


def test_text_with_the_placeholder_of_a_prompt_brings_none(tiny_model_dir: Path) -> None:
    """Neither its published name nor the character that stands for it while the text is tokenised."""
    prompt = prompt_for(Method.TOKEN_PREPENDING, TRAITS[Method.TOKEN_PREPENDING].query_template, TOKENIZER, 64)
    for text, shown in (("<PST>", "<PST>"), ("\ufdd0", "\ufffd")):
        (prompted,) = prompt.apply([text])
        assert max(prompted.ids) < 512
        assert prompted.placeholder == prompt.apply([""])[0].placeholder
        assert shown in TOKENIZER.decode(prompted.ids)
    encoder = encoder_of(tiny_model_dir, Method.TOKEN_PREPENDING)
    assert np.isfinite(encoder.encode_document(["\ufdd0" * 5, "<PST>" * 100])).all()


@pytest.mark.parametrize("method", [Method.LAST_TOKEN, Method.MEAN, Method.KV_REROUTING])
def test_empty_text_without_any_token_is_read_as_a_line_break(tmp_path: Path, method: Method) -> None:
    from tests.conftest import random_llama

    folder = save_model(random_llama(), tmp_path)
    train_tokenizer(bos=False).save_pretrained(folder)
    encoder = encoder_of(folder, method, query_template="{text}", document_template="{text}")
    assert encoder.tokenizer.encode("").ids == []
    encoding = encoder.encode_counted(["", "\n", "gzip"], "document")
    assert np.array_equal(encoding.vectors[0], encoding.vectors[1])
    assert encoding.tokens[0] == 1


def test_methods_share_weights_across_threads(tiny_model_dir: Path) -> None:
    """Two methods at once over one model: what one writes between the layers, the other never sees."""
    backbone = load_backbone(str(tiny_model_dir), revision=None, dtype="float32", device="cpu")
    passes = {method: _pass_over(backbone, tiny_model_dir, method) for method in Method}
    texts = {method: _prompted(method, backbone) for method in Method}
    before = {method: passes[method](texts[method]) for method in Method if method is not Method.TOKEN_PREPENDING}
    expected = {method: passes[method](texts[method]) for method in Method}
    for method, vectors in before.items():
        assert torch.equal(vectors, expected[method])
    wrong: list[Method] = []

    def work(method: Method) -> None:
        for _ in range(15):
            if not torch.allclose(passes[method](texts[method]), expected[method], rtol=0, atol=1e-6):
                wrong.append(method)

    threads = [threading.Thread(target=work, args=(method,)) for method in [*Method, Method.TOKEN_PREPENDING]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _pass_over(backbone: Backbone, folder: Path, method: Method) -> ForwardPass:
    layers = (1,) if TRAITS[method].reroutes else ()
    return ForwardPass(EncoderConfig(model=str(folder), method=method, layers=layers), backbone)


def _prompted(method: Method, backbone: Backbone) -> list[PromptedText]:
    return prompt_for(method, TRAITS[method].document_template, backbone.tokenizer, 512).apply(TEXTS)


def test_token_prepending_that_does_not_fire_is_an_error(tiny_model_dir: Path) -> None:
    backbone = load_backbone(str(tiny_model_dir), revision=None, dtype="float32", device="cpu")
    forward = _pass_over(backbone, tiny_model_dir, Method.TOKEN_PREPENDING)
    forward(_prompted(Method.TOKEN_PREPENDING, backbone))
    backbone.model.layers[2]._forward_pre_hooks.clear()  # type: ignore[index, union-attr]
    with pytest.raises(PrependingNotAppliedError, match=r"before layers \(1, 2, 3\) but was before \(1, 3\)"):
        forward(_prompted(Method.TOKEN_PREPENDING, backbone))


@pytest.mark.parametrize("method", [Method.ECHO, Method.TOKEN_PREPENDING])
def test_encode_tokens_by_a_method_that_needs_positions_is_an_error(tiny_model_dir: Path, method: Method) -> None:
    with pytest.raises(ValueError, match=f"prompt of method '{method.value}' has its parts; give texts"):
        encoder_of(tiny_model_dir, method).encode_tokens(torch.tensor([[1, 2, 3]]), torch.ones(1, 3))


@pytest.mark.parametrize("method", Method)
def test_config_of_method_survives_json_and_holds_what_is_its_own(method: Method) -> None:
    config = EncoderConfig(model="any", method=method)
    assert EncoderConfig.from_dict(config.to_dict()) == config
    assert ("prepending" in config.to_dict()) == (method is Method.TOKEN_PREPENDING)
    assert config.with_method(method) is config


@pytest.mark.parametrize("method", Method)
def test_config_with_another_method_has_nothing_of_the_first(method: Method) -> None:
    fields = {"max_length": 300, "dtype": "bfloat16", "normalize": False, "quantization": "int8"}
    for other in Method:
        config = EncoderConfig(model="any", method=other, **fields)  # type: ignore[arg-type]
        assert config.with_method(method) == EncoderConfig(model="any", method=method, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.KV_REROUTING])
def test_config_whose_method_alone_is_replaced_is_refused(method: Method) -> None:
    """Re-routing's prompt would stay, and mean would be mean with a prompt that nobody asked for."""
    for pooling in Pooling:
        config = EncoderConfig(model="any", layers=(1,), pooling=pooling)
        with pytest.raises(ConfigError, match=r"query_template"):
            replace(config, method=method)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "echo", "document_template": "{text}"}, "document_template is '{text}'.*exactly twice"),
        ({"method": "echo", "pooling": "hybrid"}, "method 'echo' pools by 'mean' or 'last_token'"),
        ({"method": "prompt-eol", "query_template": "{text}"}, "method 'prompt-eol' is its prompt"),
        ({"method": "token-prepending", "query_template": "of {text}"}, "must have <PST> in it once, before {text}"),
        ({"method": "token-prepending", "query_template": "{text} <PST>"}, "must have <PST> in it once"),
        ({"method": "mean", "prepending": Prepending()}, "method 'mean' prepends nothing"),
        ({"method": "token-prepending", "prepending": {"first_layer": 1}}, "give a Prepending"),
        (
            {"method": "mean", "query_template": 'This sentence : "{text}" means in one word:"'},
            r"with_method\('mean'\)",
        ),
    ],
)
def test_config_refuses_what_is_not_the_methods(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(model="any", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first_layer": 0}, "first_layer is 0; it must be a layer from 1 on"),
        ({"first_layer": 3, "stop_layer": 3}, "stop_layer is 3; it must be above first_layer, 3"),
        ({"output_layer": 0}, "output_layer is 0"),
        ({"output_layer": True}, "output_layer is True"),
        ({"placeholder_seed": -1}, "placeholder_seed is -1"),
    ],
)
def test_prepending_with_illegal_field_says_what_is_legal(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prepending(**fields)


@pytest.mark.parametrize(
    ("prepending", "message"),
    [
        (Prepending(first_layer=4), r"first_layer is 4, but the model has layers 0\.\.3"),
        (Prepending(output_layer=5), r"output_layer is 5, but the model has outputs 1\.\.4"),
        (Prepending(output_layer=-5), "output_layer is -5"),
    ],
)
def test_prepending_beyond_the_model_is_refused(tiny_model_dir: Path, prepending: Prepending, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder_of(tiny_model_dir, Method.TOKEN_PREPENDING, prepending=prepending)


def test_fingerprint_changes_with_every_field_of_prepending(tiny_model_dir: Path) -> None:
    changes = ({}, {"first_layer": 2}, {"stop_layer": 3}, {"output_layer": -1}, {"placeholder_seed": 1})
    config = EncoderConfig(model=str(tiny_model_dir), method=Method.TOKEN_PREPENDING)
    found = {replace(config, prepending=Prepending(**change)).fingerprint() for change in changes}
    assert len(found) == len(changes)


def test_placeholder_embedding_is_standard_normal_and_stays() -> None:
    """Its first numbers are written out: another stream would be another encoder under the same fingerprint."""
    from kvembed.prepending import placeholder_embedding

    numbers = placeholder_embedding(0, 4096)
    assert torch.allclose(numbers, reference.random_placeholder(0, 4096))
    assert torch.equal(placeholder_embedding(0, 4095), numbers[:-1])
    assert abs(float(numbers.mean())) < 0.05
    assert abs(float(numbers.std()) - 1) < 0.05
    assert [round(float(number), 4) for number in numbers[:4]] == [-0.0595, 1.0763, -0.95, -0.449]


def test_static_of_token_embeddings_of_another_size_than_states_is_refused(tmp_path: Path) -> None:
    """OPT-350m projects its token embeddings up: their mean is no vector of the model's size."""
    model = random_model("opt", {"vocab_size": 512, "hidden_size": 32, "word_embed_proj_dim": 16}, "eager")
    encoder = encoder_of(save_model(model, tmp_path), Method.STATIC, max_length=64)
    with pytest.raises(UnsupportedModelError, match="token embeddings have 16 numbers and its states 32"):
        encoder.encode_document(["flat plate"])


def test_encoder_with_another_config_computes_it_over_the_same_weights(tiny_model_dir: Path) -> None:
    first = encoder_of(tiny_model_dir, Method.KV_REROUTING)
    for method in Method:
        config = encoder_of(tiny_model_dir, method, max_length=200).config
        derived = first.with_config(config)
        assert derived.config == config
        assert np.array_equal(derived.encode_query(TEXTS), KVEncoder(config, device="cpu").encode_query(TEXTS))
    for other in ({"dtype": "bfloat16"}, {"quantization": "int8"}, {"model": "another/model"}):
        with pytest.raises(ConfigError, match=f"{next(iter(other))} is .*, but the loaded weights are of"):
            first.with_config(replace(first.config, **other))  # type: ignore[arg-type]

"""mteb adapter: the one place here that knows mteb, which is imported when the first wrapper is made.

```python
import mteb
from kvembed.mteb import MTEBEncoder

results = mteb.evaluate(MTEBEncoder(encoder), mteb.get_tasks(["STSBenchmark"]))
```

mteb says of retrieval, and of what it treats alike, which texts are queries and which are documents; each gets its own
prompt. All other tasks are symmetrical: their texts come without such a word, and all get one prompt, the document's,
unless `roles` says otherwise. Titles and instructions are joined to the texts as mteb joins them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack, cast, get_args

import torch
from safetensors import safe_open

from kvembed.config import EncoderConfig
from kvembed.encoder import KVEncoder
from kvembed.errors import ConfigError
from kvembed.methods import Method
from kvembed.models import DEMO_MODEL, portable_name, resolve_model, weight_files

if TYPE_CHECKING:
    import numpy as np
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, BatchedInput, EncodeKwargs, PromptType
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader

    from kvembed.config import JSON
    from kvembed.prompts import Role

_logger = logging.getLogger(__name__)

_PAPER = "https://arxiv.org/abs/2601.01046"


class MTEBEncoder:
    """An encoder as mteb's `EncoderProtocol`.

    Args:
        encoder: Its layers are resolved, its transform is fitted.
        roles: mteb's task type, such as "STS" -> whose prompt its texts get where mteb does not say.

    Raises:
        ConfigError: no such task type or role.
        LayersUnresolvedError: layers is "auto"; results would depend on the order of the tasks.
        ModuleNotFoundError: mteb is not installed.
    """

    def __init__(self, encoder: KVEncoder, *, roles: Mapping[str, Role] | None = None) -> None:
        self.encoder = encoder
        self.roles = _checked_roles(roles or {})
        self.mteb_model_meta = model_meta(
            encoder.config, roles=self.roles, dimension=encoder.dimension, fingerprint=encoder.fingerprint
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> NDArray[np.float32]:
        """Embed texts; how they are batched is the encoder's own affair, and `batch_size` changes nothing.

        Args:
            inputs: Batches with a "text" each.
            task_metadata: Whose texts they are.
            hf_split: Names them in a warning.
            hf_subset: The same.
            prompt_type: Query or document; None of symmetrical tasks.
            **kwargs: `show_progress_bar` is heeded.

        Returns:
            (n, E) float32.

        Raises:
            ConfigError: the inputs have no texts, or another `precision` than float32 is asked for.
        """
        if kwargs.get("precision", "float32") != "float32":
            raise ConfigError(f"precision is {kwargs['precision']!r}; vectors are float32, leave precision out")
        role = self.role_of(task_metadata, prompt_type)
        texts = [text for batch in inputs for text in _texts(batch, task_metadata)]
        found = self.encoder.encode_counted(texts, role, show_progress=kwargs.get("show_progress_bar", False))
        if cut := int((found.truncated_tokens > 0).sum()):
            limit = self.encoder.config.max_length
            place = f"{task_metadata.name} {hf_split} {hf_subset}"
            _logger.warning("%s: %d of %d texts were cut to %d tokens, prompt included", place, cut, len(texts), limit)
        return found.vectors

    def role_of(self, task_metadata: TaskMetadata, prompt_type: PromptType | None) -> Role:
        """Return whose prompt a task's texts get."""
        if prompt_type is not None:
            return "query" if prompt_type.value == "query" else "document"
        return self.roles.get(task_metadata.type, "document")

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosine of each vector (n, E) with each of the others (m, E), (n, m)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(torch.as_tensor(embeddings1), torch.as_tensor(embeddings2))

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosine of each vector (n, E) with the other of the same place, (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(torch.as_tensor(embeddings1), torch.as_tensor(embeddings2))


def model_meta(
    config: EncoderConfig,
    *,
    roles: Mapping[str, Role] | None = None,
    dimension: int | None = None,
    fingerprint: str | None = None,
) -> ModelMeta:
    """Describe an encoder to mteb, whose `mteb.evaluate` takes such a description too and loads the model by it.

    The revision is the encoder's fingerprint: mteb keeps results by name and revision, and so never takes those of
    another window, prompt, transform or file of weights for this one's. No training data is named, for nothing is
    trained; what the backbone was trained on follows from `adapted_from`, where mteb knows that model.

    Args:
        config: Its layers are resolved.
        roles: As `MTEBEncoder` takes them.
        dimension: Numbers per vector; None leaves it open until the model is loaded.
        fingerprint: The encoder's; None hashes the model's files.

    Raises:
        ConfigError: no such task type or role.
        KVEmbedError: as `EncoderConfig.fingerprint`.
    """
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction

    named = portable_name(config.model)
    stored: dict[str, JSON] = dict(_checked_roles(roles or {}))
    demo = named == DEMO_MODEL
    parameters = _parameters(config)
    size = getattr(torch, config.dtype).itemsize
    return ModelMeta(
        loader=load_for_mteb,
        loader_kwargs={"config": config.to_dict()},
        name=f"kvembed/{named.rstrip('/').split('/')[-1]}-{_method(config)}",
        revision=fingerprint or config.fingerprint(),
        release_date=None,
        languages=["eng-Latn"] if demo else None,
        n_parameters=parameters,
        memory_usage_mb=None if config.quantization else parameters * size / 2**20,
        max_tokens=config.max_length,
        embed_dim=dimension,
        license="cc-by-sa-3.0" if demo else None,
        open_weights=True if demo else None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        reference=_PAPER if config.method is Method.KV_REROUTING else None,
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=True,
        training_datasets=set(),
        adapted_from=None if demo or "/" not in named else named,
        experiment_kwargs={"roles": stored} if stored else None,
    )


def load_for_mteb(
    model_name: str,
    revision: str | None,
    *,
    config: Mapping[str, JSON],
    device: str | None = None,
    roles: Mapping[str, Role] | None = None,
) -> MTEBEncoder:
    """Load what a description of `model_meta` stands for.

    Args:
        model_name: Its name.
        revision: Its fingerprint.
        config: `EncoderConfig.to_dict`.
        device: As `KVEncoder` takes it.
        roles: As `MTEBEncoder` takes them.

    Raises:
        ConfigError: the model's files are not those of the fingerprint any more.
    """
    encoder = KVEncoder(EncoderConfig.from_dict(config), device=device)
    if revision is not None and encoder.fingerprint != revision:
        encoder.close()
        raise ConfigError(
            f"{model_name} has the fingerprint {encoder.fingerprint}, but {revision} was asked for; "
            "its files or this package changed: describe it anew with model_meta(config)"
        )
    return MTEBEncoder(encoder, roles=roles)


def register(config: EncoderConfig, *, roles: Mapping[str, Role] | None = None) -> ModelMeta:
    """Put an encoder into mteb's registry, so that `mteb.get_model` and `mteb.get_model_meta` find it by its name.

    Args:
        config: Its layers are resolved.
        roles: As `MTEBEncoder` takes them.

    Raises:
        ConfigError: another encoder is registered under that name.
    """
    from mteb.models.model_implementations import MODEL_REGISTRY

    meta = model_meta(config, roles=roles)
    name = str(meta.name)
    if name in MODEL_REGISTRY and MODEL_REGISTRY[name].revision != meta.revision:
        raise ConfigError(f"mteb has another {name} already; give that one's results another folder, or a new process")
    MODEL_REGISTRY[name] = meta
    return meta


def _texts(batch: BatchedInput, task_metadata: TaskMetadata) -> list[str]:
    if "text" not in batch:
        raise ConfigError(
            f"{task_metadata.name} has {sorted(batch)} and no text; only tasks of mteb's modality text can be embedded"
        )
    return list(cast("Mapping[str, list[str]]", batch)["text"])


def _checked_roles(roles: Mapping[str, Role]) -> dict[str, Role]:
    from mteb.abstasks.task_metadata import TaskType

    for kind, role in roles.items():
        if kind not in get_args(TaskType):
            raise ConfigError(f"roles names {kind!r}; legal are mteb's task types, {', '.join(get_args(TaskType))}")
        if role not in ("query", "document"):
            raise ConfigError(f"roles has {role!r} for {kind!r}; legal are query and document")
    return dict(roles)


def _method(config: EncoderConfig) -> str:
    return "no-rerouting" if config.method is Method.KV_REROUTING and config.layers == () else config.method.value


def _parameters(config: EncoderConfig) -> int:
    """Count what the model's files hold, a language-model head included."""
    total = 0
    for path in weight_files(resolve_model(config.model, config.revision)):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total

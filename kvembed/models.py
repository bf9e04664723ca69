"""Where a model's files lie, and what they hash to."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kvembed.errors import ModelNotFoundError, UnsupportedModelError

DEMO_MODEL = "kvembed/demo"
"""Portable name of the small model that is part of this package."""

_DEMO_FOLDER = Path(__file__).parent / "demo"
_NEEDED = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")
_TOKENIZER_SETTINGS = ("add_bos_token", "add_eos_token", "add_prefix_space", "bos_token", "eos_token", "legacy")
# Fields of config.json that leave the hidden states as they are.
_INERT = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", "model_id"}
    | {"attn_implementation", "_attn_implementation", "tie_word_embeddings", "output_hidden_states"}
    | {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "auto_map", "output_attentions"}
)


@dataclass(frozen=True, slots=True)
class ModelHashes:
    """SHA-256 digests, 64 hexadecimal digits each, of what a model's hidden states depend on."""

    weights: str
    """Names, types, shapes and bytes of all tensors but the language-model head, however they are sharded."""
    tokenizer: str
    """Tokenizer files and the settings that add tokens, without stored truncation or padding."""
    architecture: str
    """config.json without the fields that do not reach the hidden states."""


def resolve_model(model: str, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloading a hub model once.

    Args:
        model: `DEMO_MODEL`, a folder, or a hub id.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelNotFoundError: no such folder, no such hub model, or no network and nothing cached.
    """
    if model == DEMO_MODEL:
        return _checked(_DEMO_FOLDER, model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder, model)
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or folder.exists():
        raise ModelNotFoundError(model, "not a folder; give a folder with config.json and *.safetensors, or a hub id")
    return _checked(_downloaded(model, revision), model)


def portable_name(model: str) -> str:
    """Return a name that means the same on every machine: hub ids as they are, of a folder its last part."""
    folder = Path(model).expanduser()
    return folder.resolve().name if model != DEMO_MODEL and folder.is_dir() else model


def model_hashes(folder: Path) -> ModelHashes:
    """Hash the files of a model; repeated calls on unchanged files are answered from memory.

    Raises:
        UnsupportedModelError: no safetensors weights.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".model", ".txt"))
    stamps = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _hashes(folder.resolve(), stamps)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model, in name order."""
    return sorted(folder.glob("*.safetensors"))


def _checked(folder: Path, model: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(model, "the folder has no config.json; give a model in Hugging Face layout")
    if not weight_files(folder):
        raise UnsupportedModelError(model, "the folder has no *.safetensors; convert the weights to safetensors first")
    return folder


def _downloaded(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_NEEDED))
    except HFValidationError:
        raise ModelNotFoundError(model, "neither a folder nor a legal hub id such as 'Qwen/Qwen3-4B'") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelNotFoundError(
            model,
            f"no such folder, not in the local hub cache, and the hub gave: {reason}. On a machine with network run "
            f"`hf download {model} --local-dir DIR`, bring DIR here and give it as the model",
        ) from error


@lru_cache(maxsize=64)
def _hashes(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> ModelHashes:
    del stamps  # part of the cache key: a changed file is hashed again
    return ModelHashes(_weights_hash(folder), _tokenizer_hash(folder), _architecture_hash(folder))


def _weights_hash(folder: Path) -> str:
    entries = sorted(
        (name, digest)
        for path in weight_files(folder)
        for name, digest in _tensor_digests(path)
        if not name.startswith("lm_head.")
    )
    # LlamaModel saves `layers.0…`, LlamaForCausalLM `model.layers.0…`: the same base model.
    prefixes = {name.partition(".")[0] for name, _ in entries}
    if len(prefixes) == 1:
        entries = [(name.partition(".")[2], digest) for name, digest in entries]
    return _digest(entries)


def _tensor_digests(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, digest) per tensor, from the file's own layout: header length, JSON header, raw bytes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (header_length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + header_length])
        header.pop("__metadata__", None)
        view = memoryview(data)
        for name, entry in header.items():
            begin, end = (8 + header_length + offset for offset in entry["data_offsets"])
            digest = hashlib.sha256(json.dumps([entry["dtype"], entry["shape"]]).encode())
            with view[begin:end] as part:
                digest.update(part)
            yield name, digest.hexdigest()
        view.release()


def _tokenizer_hash(folder: Path) -> str:
    parts: list[object] = []
    for name in _TOKENIZER_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if name == "tokenizer.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            parts.append([name, {key: value for key, value in content.items() if key not in ("truncation", "padding")}])
        else:
            parts.append([name, hashlib.sha256(path.read_bytes()).hexdigest()])
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        content = json.loads(settings.read_text(encoding="utf-8"))
        parts.append({key: content[key] for key in _TOKENIZER_SETTINGS if key in content})
    return _digest(parts)


def _architecture_hash(folder: Path) -> str:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _digest({key: value for key, value in content.items() if key not in _INERT})


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

"""Where this user's models lie, by the hash of their weights.

A manifest names a model by hash, never by a path of one machine. So that a collection filled from a local folder
can be opened again without naming the folder, its place is noted in a file of the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kvembed.errors import KVEmbedError
from kvembed.models import DEMO_MODEL, model_hashes, resolve_model
from pipelines.errors import ModelUnavailableError
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from kvembed import EncoderConfig
    from pipelines.manifest import Manifest

_FILE = "models.json"


def remember_model(config: EncoderConfig) -> None:
    """Note where an encoder's model lies, if that is a folder; a cache that cannot be written is done without."""
    if config.model == DEMO_MODEL or not Path(config.model).expanduser().is_dir():
        return
    folder = Path(config.model).expanduser().resolve()
    known = _read()
    weights = model_hashes(folder).weights
    if known.get(weights) == str(folder):
        return
    file = _file()
    fresh = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({**known, weights: str(folder)}, indent=1), encoding="utf-8")
        fresh.replace(file)
    except OSError:
        return


def find_model(manifest: Manifest) -> str:
    """Return a model, as `EncoderConfig.model` takes it, with the hashes stored in a manifest.

    Looked at in turn: the stored name, then the folder this user filled a collection from.

    Raises:
        ModelUnavailableError: none has these hashes; the message names what was tried.
    """
    tried = []
    for candidate in _candidates(manifest):
        problem = _problem(candidate, manifest)
        if problem is None:
            return candidate
        tried.append(f"{candidate} ({problem})")
    raise ModelUnavailableError(
        f"collection {manifest.name!r} was filled by model {manifest.encoder['model']!r} with weights "
        f"{str(manifest.encoder['weights_sha256'])[:12]}…, which was not found; tried {', '.join(tried)}; "
        "give its folder as model (--model FOLDER)"
    )


def _candidates(manifest: Manifest) -> Iterator[str]:
    """The folder known to this user comes before a hub id, which may ask the network."""
    name = str(manifest.encoder["model"])
    remembered = _read().get(str(manifest.encoder["weights_sha256"]))
    if name == DEMO_MODEL:
        yield name
    if remembered is not None:
        yield remembered
    if name != DEMO_MODEL:
        yield name


def _problem(candidate: str, manifest: Manifest) -> str | None:
    revision = manifest.encoder.get("revision")
    try:
        hashes = model_hashes(resolve_model(candidate, str(revision) if revision else None))
    except (KVEmbedError, OSError) as error:
        return str(error).splitlines()[0]
    found = {
        "weights_sha256": hashes.weights,
        "tokenizer_sha256": hashes.tokenizer,
        "architecture_sha256": hashes.architecture,
    }
    other = [field for field, value in found.items() if manifest.encoder[field] != value]
    return f"other {', '.join(other)}" if other else None


def _file() -> Path:
    return load_settings().cache_dir.expanduser() / _FILE


def _read() -> Mapping[str, str]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}

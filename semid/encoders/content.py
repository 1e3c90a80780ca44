"""Which content vectors a recipe uses where the user names none."""

from __future__ import annotations

from collections.abc import Callable

from semid.encoders.hashed import Hashed
from semid.encoders.text import MINILM_INSTALL, Text, find_minilm, item_texts
from semid.training.log import Log
from semid.types import Catalog


def with_text_view(catalog: Catalog, model: str, *, log: Log, device: str = "cpu") -> Catalog:
    """Return the catalogue with a view "text", or unchanged where there is nothing to encode.

    model: "auto" takes a view "text" that is there, else MiniLM's weights if installed, else hashed TF-IDF; "hashed";
    "none"; or a hub name or folder for transformers. What was taken is written to the log.
    """
    if model == "none":
        return catalog
    if model == "auto" and "text" in catalog.views:
        log.write("content", note="content vectors: the catalogue's own view 'text'")
        return catalog
    if not any(item_texts(catalog)):
        log.write("content", note="content vectors: none, the catalogue has no text")
        return catalog
    encoder = text_encoder(model, progress=_progress(log), device=device)
    if model == "auto":
        found = "all-MiniLM-L6-v2" if isinstance(encoder, Text) else f"hashed TF-IDF (for MiniLM: {MINILM_INSTALL})"
        log.write("content", note=f"content vectors: {found}")
    return catalog.with_view("text", encoder.encode(catalog))


def text_encoder(model: str, *, progress: Callable[[int, int], None] | None = None, device: str = "cpu") -> Text | Hashed:
    """Return the encoder that `with_text_view` takes for `model`, of a catalogue without vectors of its own."""
    if model == "hashed":
        return Hashed()
    if model != "auto":
        return Text(model, device=device, progress=progress)
    found = find_minilm()
    return Hashed() if found is None else Text(found, device=device, progress=progress)


def _progress(log: Log):
    return lambda done, total: log.write("content", step=done, steps=total)

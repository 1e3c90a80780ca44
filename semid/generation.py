"""Two generators for the codes of one tokenizer: TIGER's encoder-decoder, as papers have it, or semid's own two-level one.

With the second, recipes that differ in their tokenizer alone are compared in minutes on a processor. Items with the same codes are then
told apart as semid does it, by the nearest free last code (`collisions.next_free`): it keeps the number of levels, and with it the
generator, the same for every tokenizer, where TIGER's extra level would add one for some.
"""

from __future__ import annotations

from pathlib import Path

from semid.config import ReadWhere
from semid.errors import ConfigError
from semid.newcomers import Free, Newcomers
from semid.recipes import semid, tiger
from semid.recommenders import CodeRecommender
from semid.tokenizers.rqvae import RQVAE
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

NEVER: ReadWhere = {
    (): tuple(f"two_level.{name}" for name in ("tokenizer", "code_views", "levels", "size", "collisions", "tokenizer_steps"))}
"""What a recipe with a tokenizer of its own reads nowhere."""

OF_TWO_LEVEL: ReadWhere = {**NEVER, ("is_two_level", True): ("two_level",)}

OF_ONE_GENERATOR: ReadWhere = {
    **OF_TWO_LEVEL,
    ("is_two_level", False): tuple(f"tiger.{name}" for name in (
        "width", "heads", "head_width", "layers", "feedforward", "dropout", "user_tokens", "max_history", "batch_size", "steps",
        "is_causal", "tokens", "look_every", "patience", "beams", "alignment", "optimization"))}
"""For a recipe with the settings `is_two_level`, `two_level` and `tiger`."""

TOKENIZER = ("tiger.levels", "tiger.size", "tiger.latent", "tiger.tokenizer_steps")
"""What published codes replace."""


def generate(ids: SemanticIds, encoder_decoder: tiger.Config, two_level: semid.Config, data: Split, job: Job, *, is_two_level: bool,
             temperature: float = 1.0) -> CodeRecommender:
    """Train one of the two on given codes; of its settings, those of a tokenizer are not read. temperature: see `NextCodes`."""
    if not is_two_level:
        return tiger.generate(encoder_decoder, ids, data, job, temperature)
    catalog, views = semid.with_views(two_level.text, two_level.cf_dim, data, job)
    return semid.generate(two_level, ids, catalog, views, data, job, temperature)


def newcomers(encoder_decoder: tiger.Config, two_level: semid.Config, catalog: Catalog, folder: Path, *, is_two_level: bool,
              free: Free) -> Newcomers | None:
    """New items under what `generate` trained on RQ-VAE's codes. free: as `Newcomers` has it, for the encoder-decoder; semid's generator
    takes the nearest free code, and no new items where it reads another text than the tokenizer."""
    tokenizer = RQVAE.load(folder / "tokenizer.safetensors")
    if not is_two_level:
        return Newcomers.of_text(tokenizer, encoder_decoder.view, encoder_decoder.text, free, catalog)
    reads_the_same = encoder_decoder.view == semid.VIEWS[0] and encoder_decoder.text == two_level.text
    return semid.newcomers_of(tokenizer, two_level, catalog, folder) if reads_the_same else None


def refuse_nested(two_level: semid.Config, encoder_decoder: tiger.Config | None = None) -> None:
    """Raise `ConfigError` for settings of a generator that its recipe alone has: published codes, where a recipe that takes the generator
    has a setting `codes` of its own, and fusion."""
    for name, source in (("two_level", two_level.codes), ("tiger", encoder_decoder.codes if encoder_decoder else None)):
        if source:
            raise ConfigError(f"setting {name}.codes={source!r}: this recipe reads published codes from its own setting; "
                              f"want codes={source}")
    refuse_fusion(two_level)


def refuse_fusion(two_level: semid.Config) -> None:
    """Raise `ConfigError` for a fusion in a recipe that takes semid's generator alone."""
    if two_level.fusion:
        raise ConfigError("setting two_level.fusion: fusion is for the recipe semid alone; leave it out")


def load(encoder_decoder: tiger.Config, two_level: semid.Config, catalog: Catalog, folder: Path, *, is_two_level: bool) -> CodeRecommender:
    """Read what `generate` trained. Raises `RunError`."""
    if not is_two_level:
        return tiger.load(encoder_decoder, catalog, folder)
    recommender = semid.load(two_level, catalog, folder)
    assert isinstance(recommender, CodeRecommender)  # see `refuse_fusion`
    return recommender

"""Finished systems: parts put together so that histories go in and items come out.

Axes: B rows, N items, k list length, C candidates of a row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from semid.data.batch import latest
from semid.decoding.beam import beam_search
from semid.decoding.exhaustive import score_items
from semid.decoding.free import valid_share
from semid.decoding.graph import ItemGraph, graph_search
from semid.decoding.normalise import Normalise
from semid.decoding.ranking import mask_items, top_items
from semid.errors import RunError
from semid.files import write_atomically, write_json
from semid.generators.parallel import Parallel
from semid.newcomers import Near
from semid.protocols import Scorer
from semid.scorers.item_knn import ItemKNN
from semid.scorers.popularity import RecentPopularity
from semid.scorers.shares import Shares
from semid.tree import CodeTree, Constraint
from semid.types import DAY, Batch, Beams, Recommendations, SemanticIds


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU. Raises `RunError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read: {error}; restore the file or train again") from None


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write what `load_tensors` reads."""
    from safetensors.torch import save_file

    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary))


def listed(batch: Batch, item: Tensor, score: Tensor, scale: str) -> Recommendations:
    """Turn tensors [B, k] into `Recommendations`; -inf scores become padding."""
    return Recommendations(batch.user.numpy().astype(np.int32), item.cpu().numpy().astype(np.int32),
                           score.float().cpu().numpy(), scale)


def tensors_of(part: Any) -> dict[str, Tensor]:
    """Return the state dict of a module, or the tensors of a plain dataclass, those of its parts under the part's name and a dot."""
    if isinstance(part, nn.Module):
        return part.state_dict()
    tensors = {}
    for name in (each.name for each in dataclasses.fields(part)):
        value = getattr(part, name)
        if isinstance(value, Tensor):
            tensors[name] = value
        elif dataclasses.is_dataclass(value):
            tensors |= {f"{name}.{inner}": tensor for inner, tensor in tensors_of(value).items()}
    return tensors


@dataclass(frozen=True)
class ItemRecommender:
    """A scorer that ranks all items."""

    scorer: Scorer
    scale: str
    device: str = "cpu"

    @property
    def num_parameters(self) -> int:
        """Numbers that were learnt, or counted and are not zero."""
        if isinstance(self.scorer, nn.Module):
            return sum(parameter.numel() for parameter in self.scorer.parameters())
        return sum(int(value.count_nonzero()) for value in tensors_of(self.scorer).values() if value.is_floating_point())

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        return self.scorer.score(batch.to(self.device))

    def recommend(self, histories: Batch, *, k: int, allowed: np.ndarray | None = None, seen: str = "keep") -> Recommendations:
        scores = mask_items(self.score(histories), allowed, histories.seen if seen == "remove" else None)
        value, item = top_items(scores, k)
        return listed(histories, item, value, self.scale)

    def score_items(self, histories: Batch, items: Tensor) -> Tensor:
        """Return float32 [B, C]: the scores of items int64 [B, C] (-1 pads give -inf)."""
        scores = self.score(histories).to(items.device)
        return scores.gather(1, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)

    def save(self, folder: Path) -> None:
        save_tensors(folder / "scorer.safetensors", tensors_of(self.scorer))


@dataclass(frozen=True)
class ParallelRecommender(ItemRecommender):
    """A generator of all digits at once (`scorer`, a `generators.parallel.Parallel`). ids: the codes it generates.

    graph: lists are searched along it, and scores are exact for what was visited; None = every item is scored.
    """

    ids: SemanticIds = field(kw_only=True)
    graph: ItemGraph | None = field(default=None, kw_only=True)

    @torch.no_grad()
    def recommend(self, histories: Batch, *, k: int, allowed: np.ndarray | None = None, seen: str = "keep") -> Recommendations:
        if self.graph is None:
            return super().recommend(histories, k=k, allowed=allowed, seen=seen)
        generator = cast("Parallel", self.scorer)
        value, item = graph_search(generator.log_probabilities(histories.to(self.device)), generator.codes, self.graph, k=k,
                                   allowed=allowed, hidden=histories.seen if seen == "remove" else None)
        return listed(histories, item, value, self.scale)

    def save(self, folder: Path) -> None:
        save_tensors(folder / "generator.safetensors", tensors_of(self.scorer))
        write_codes(folder / "codes.parquet", self.ids)
        if self.graph is not None:
            save_tensors(folder / "graph.safetensors", {"neighbour": self.graph.neighbour, "start": self.graph.start})


@dataclass(frozen=True)
class CodeRecommender:
    """A generator that writes codes, a tree that keeps them real.

    generator: an `nn.Module` that is a `protocols.Generator` (Python has no type for both).
    beams: paths kept while decoding (at least k). max_history: the generator reads the last so many items, None = all given.
    normalise: as the generator was trained, over a level's codes or over the children that exist.
    """

    generator: Any
    ids: SemanticIds
    tree: CodeTree
    beams: int = 50
    device: str = "cpu"
    max_history: int | None = None
    normalise: Normalise = "vocabulary"

    @property
    def num_parameters(self) -> int:
        """Trained weights; buffers such as content vectors are not counted."""
        return sum(parameter.numel() for parameter in self.generator.parameters())

    def with_items(self, codes: np.ndarray, content: np.ndarray) -> CodeRecommender:
        """Return the recommender of more items: their codes, integer [new, L], and content vectors, float32 [new, F].

        Old items keep codes and vectors; this recommender stays as it is.
        """
        ids = replace(self.ids, codes=np.concatenate([self.ids.codes, codes.astype(self.ids.codes.dtype)]))
        tree = self.tree.insert(ids)
        return replace(self, ids=ids, tree=tree, generator=self.generator.with_items(ids, tree, torch.from_numpy(content)))

    @torch.inference_mode()
    def recommend(self, histories: Batch, *, k: int, allowed: np.ndarray | None = None, seen: str = "keep",
                  constraint: Constraint | None = None) -> Recommendations:
        """constraint: `tree.allow(allowed)`, where it is there already: a rule that many requests share is prepared once."""
        beams = self.search(self.read(histories), k=k, allowed=allowed, seen=seen, constraint=constraint)
        return listed(histories, beams.item, beams.logp, "log probability")

    def search(self, batch: Batch, *, k: int, allowed: np.ndarray | None, seen: str, constraint: Constraint | None) -> Beams:
        """Return what `recommend` lists, as tensors; batch: what `read` returns."""
        if constraint is None and allowed is not None:
            constraint = self.tree.allow(allowed)
        return beam_search(self.generator, batch, self.tree, beams=max(self.beams, k), k=k, normalise=self.normalise,
                           constraint=constraint, seen=batch.seen if seen == "remove" else None)

    @torch.no_grad()
    def score_items(self, histories: Batch, items: Tensor) -> Tensor:
        """Return float32 [B, C]: the exact log-probability of candidate items int64 [B, C] (-1 pads give -inf)."""
        return score_items(self.generator, self.read(histories), self.tree, items, normalise=self.normalise).to(items.device)

    @torch.no_grad()
    def valid_share(self, histories: Batch, *, k: int) -> float:
        """Return the share of the k best paths of each row that are items, searched without the tree; 1 where the generator
        itself chooses among children that exist."""
        if self.normalise == "children":
            return 1.0
        return valid_share(self.generator, self.read(histories), self.tree, beams=k)

    def read(self, histories: Batch) -> Batch:
        """Return the histories as the generator takes them: on its device, the latest items."""
        batch = histories if histories.item.device == torch.device(self.device) else histories.to(self.device)
        return batch if self.max_history is None else latest(batch, self.max_history)

    def save(self, folder: Path) -> None:
        save_tensors(folder / "generator.safetensors", self.generator.state_dict())
        write_codes(folder / "codes.parquet", self.ids)


@dataclass(frozen=True)
class Fusion:
    """A generator and scorers, pooled: the sum of weight x log p of each over the best items of all.

    scorers: by name. weights: the generator's, then one a scorer, of a request within a day of the last event. later: the same of one that
    comes later, when people go on with something else; None = as ever. p of a scorer is the row's scores divided by their sum (they must
    be >= 0), plus 1e-6 so that an item the scorer doesn't know stays comparable. Candidates: the beams of the generator and as many of
    each scorer's best; each gets all exact scores. near: of items that came after training, see `with_items`.
    """

    first: CodeRecommender
    scorers: dict[str, ItemRecommender]
    weights: tuple[float, ...]
    later: tuple[float, ...] | None = None
    near: Near | None = None

    @torch.no_grad()
    def candidates(self, histories: Batch, *, allowed: np.ndarray | None, seen: str, depth: int,
                   constraint: Constraint | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (item int64 [B, C], each once, -1 pads; log p of each part, float32 [B, C], -inf there)."""
        device, hidden = histories.item.device, histories.seen if seen == "remove" else None
        batch = self.first.read(histories)
        batch = replace(batch, extra={**batch.extra, "state": self.first.generator.left(batch)})  # read once for both calls
        beams = self.first.search(batch, k=depth, allowed=allowed, seen=seen, constraint=constraint)
        beam, pad = beams.item.to(device), len(self.first.tree)
        is_listed = torch.zeros(len(batch), pad + 1, dtype=torch.bool, device=device).scatter_(1, beam.remainder(pad + 1), True)
        is_listed[:, pad] = True
        scored, others = [], []
        for scorer in self.scorers.values():
            scores = self._scores(scorer, histories).to(device)
            scored.append(scores)
            known = top_items(mask_items(scores, allowed, hidden), depth)[1]
            others.append(known.masked_fill(is_listed.gather(1, known.remainder(pad + 1)), -1))
            is_listed.scatter_(1, known.remainder(pad + 1), True)
        other, _ = torch.cat(others, 1).sort(dim=1, descending=True)
        other = other[:, : max(1, int((other >= 0).sum(1).max()))]  # paths are walked for what the beams lack
        item = torch.cat([beam, other], 1)
        first = torch.cat([beams.logp.to(device), self.first.score_items(batch, other).to(device)], 1)
        return item, (first, *(_log_share(scores, item).masked_fill(item < 0, -torch.inf) for scores in scored))

    @torch.no_grad()
    def score_items(self, histories: Batch, items: Tensor) -> Tensor:
        """Return float32 [B, C]: the pooled scores of items int64 [B, C] (-1 pads give -inf)."""
        shares = [_log_share(self._scores(scorer, histories).to(items.device), items) for scorer in self.scorers.values()]
        parts = [self.first.score_items(histories, items), *shares]
        return pool(parts, self.weights_of(histories).to(items.device)).masked_fill(items < 0, -torch.inf)

    def weights_of(self, histories: Batch) -> Tensor:
        """Return float32 [B, P]: the weights of each request's parts."""
        same, later = torch.tensor(self.weights), torch.tensor(self.later or self.weights)
        return torch.where(is_later(histories).cpu()[:, None], later, same)

    def with_items(self, codes: np.ndarray, content: np.ndarray) -> Fusion:
        """As `CodeRecommender.with_items`. The scorers know nothing of the new items, which therefore score what the known items do whose
        content is nearest, on average: nobody could take them yet, and that would count against them for ever. Where the generator reads
        no content they stay at nothing."""
        grown = {name: replace(part, scorer=cast("ItemKNN | RecentPopularity | Shares", part.scorer).with_items(len(codes)))
                 for name, part in self.scorers.items()}
        own, near = self.first.generator.input.content, None
        if own is not None:
            known = own[: len(own) - (0 if self.near is None else len(self.near.item))]
            near = Near.of(torch.from_numpy(content), known.cpu())
            near = near if self.near is None else self.near.and_also(near)
        return replace(self, first=self.first.with_items(codes, content), scorers=grown, near=near)

    def _scores(self, scorer: ItemRecommender, histories: Batch) -> Tensor:
        """Return float32 [B, N]: a scorer's scores, those of items that came after training by what is near them."""
        scores = scorer.score(histories)
        return scores if self.near is None else self.near.expected(scores)

    def recommend(self, histories: Batch, *, k: int, allowed: np.ndarray | None = None, seen: str = "keep",
                  constraint: Constraint | None = None) -> Recommendations:
        """constraint: of the generator's tree, where it is there already."""
        item, parts = self.candidates(histories, allowed=allowed, seen=seen, depth=max(k, self.first.beams), constraint=constraint)
        pooled = pool(parts, self.weights_of(histories).to(item.device)).masked_fill(item < 0, -torch.inf)
        by_item = item.argsort(dim=1)  # ties to the lower item row
        item, pooled = item.gather(1, by_item), pooled.gather(1, by_item)
        order = pooled.argsort(dim=1, descending=True, stable=True)[:, :k]
        item, pooled = item.gather(1, order), pooled.gather(1, order)
        return listed(histories, item.masked_fill(pooled == -torch.inf, -1), pooled, "pooled log probability")

    @property
    def named_weights(self) -> dict[str, dict[str, float]]:
        """{"same day" | "later": {"generator": weight, one name a scorer: its weight}}."""
        names = ("generator", *self.scorers)
        return {when: dict(zip(names, weights, strict=True))
                for when, weights in (("same day", self.weights), ("later", self.later or self.weights))}

    @property
    def num_parameters(self) -> int:
        return self.first.num_parameters + sum(part.num_parameters for part in self.scorers.values())

    def save(self, folder: Path) -> None:
        self.first.save(folder)
        for number, part in enumerate(self.scorers.values()):
            save_tensors(folder / scorer_file(number), tensors_of(part.scorer))
        write_json(folder / "fusion.json", {"voices": list(self.scorers), "weights": self.weights, "later": self.later})

    @classmethod
    def load(cls, folder: Path, first: CodeRecommender, open_voice: Callable[[str, Path], ItemRecommender],
             wanted: Sequence[str]) -> Fusion:
        """open_voice: from a voice's name and file. wanted: the names in the settings; older runs kept no others."""
        about = json.loads((folder / "fusion.json").read_text(encoding="utf-8"))
        weights = about["weights"] if "weights" in about else (1 - about["weight"], about["weight"])  # semid 0.1 knew one scorer
        voices = about.get("voices", wanted[: len(weights) - 1])
        scorers = {name: open_voice(name, folder / scorer_file(number)) for number, name in enumerate(voices)}
        return cls(first, scorers, tuple(weights), None if about.get("later") is None else tuple(about["later"]))


def scorer_file(number: int) -> str:
    """Name the file of one of a fusion's scorers; the first is where a scorer alone is."""
    return f"scorer_{number}.safetensors" if number else "scorer.safetensors"


def _log_share(scores: Tensor, items: Tensor) -> Tensor:
    """The logarithm of the items' scores over the sum of their row, and a little. scores [B, N], items int64 [B, C] -> [B, C]."""
    return (scores.gather(1, items.clamp_min(0)) / scores.sum(1, keepdim=True).clamp_min(1e-12) + 1e-6).log()


def is_later(histories: Batch) -> Tensor:
    """Return bool [B]: asked a day or more after the last event. Times are UTC seconds."""
    return histories.waited >= DAY


def pool(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of parts [B, C], weights float [B, P] or [1, P], where a weight of 0 drops a part even if it is -inf."""
    return torch.stack([torch.where(weight != 0, weight * part, 0.0)
                        for weight, part in zip(weights.T[:, :, None], parts, strict=True)]).sum(0)


def write_codes(path: Path, ids: SemanticIds) -> None:
    """Write codes as Parquet: columns level_0 ... and the sizes, order and source in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({f"level_{level}": ids.codes[:, level] for level in range(ids.levels)})
    about = {"semid": json.dumps({"sizes": list(ids.sizes), "order": ids.order, "source": ids.source})}
    write_atomically(path, lambda temporary: pq.write_table(table.replace_schema_metadata(about), temporary))


def read_codes(path: Path) -> SemanticIds:
    """Read what `write_codes` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"semid"])
    codes = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return SemanticIds(np.ascontiguousarray(codes), tuple(about["sizes"]), about["order"], about["source"])

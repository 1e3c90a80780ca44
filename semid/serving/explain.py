"""Why an item: its path down the code tree, the history items that mattered, and what lies near it.

Axes: S history positions, L levels, C children of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from semid.data.batch import history_batch
from semid.decoding.normalise import log_probabilities
from semid.errors import ConfigError
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender
from semid.serving.contract import Explanation, Influence, Level, Request, moments
from semid.serving.snapshot import Snapshot
from semid.types import Batch

RANKED = 1000
"""Ranks are told up to here."""

TITLES = 5
"""Titles shown of a node, and neighbours of each kind."""


@torch.no_grad()
def explain(snapshot: Snapshot, recommender: CodeRecommender | ItemRecommender | Fusion, rows: np.ndarray,
            request: Request, items: Sequence[int], *, hidden: np.ndarray) -> list[Explanation]:
    """Explain item rows `items` for the history of a request, whose item rows are int64 [S]. hidden: int64, items that its list
    leaves out.

    The list is decoded once for all. Leave-one-out: for each the history is read S times more, without one of the items a model
    reads. Raises `ConfigError` for an empty history, which has nothing to explain.
    """
    if not len(rows):
        raise ConfigError("explain: want a history of at least one item, got none; without one the most popular items are shown")
    limit = snapshot.run.split.protocol.max_history
    time = np.zeros(len(rows), np.int64) if request.times is None else np.asarray(request.times, np.int64)
    user = snapshot.user_rows([request.user])
    unread = max(0, len(rows) - limit)
    rows, time = rows[-limit:], time[-limit:]
    whole = history_batch([rows], [time], user, max_history=limit, requests=moments([request]))
    whole.extra["seen"] = torch.from_numpy(hidden[None])
    code = recommender.first if isinstance(recommender, Fusion) else recommender
    listed = snapshot.admitted(None, None).best(recommender, whole, min(RANKED, len(snapshot)))

    def one(item: int) -> Explanation:
        place = np.flatnonzero(listed.item[0] == item)
        score = float(recommender.score_items(whole, torch.tensor([[item]]))[0, 0])
        return Explanation(
            item_id=str(snapshot.catalog.items.ids[item]), title=snapshot.catalog.titles[item], score=score, scale=listed.scale,
            rank=int(place[0]) + 1 if len(place) else None,
            path=_path(snapshot, code, whole, item) if isinstance(code, CodeRecommender) else (),
            history=_influences(snapshot, recommender, whole, item, score, unread),
            content=tuple(snapshot.near(item, TITLES, "content")) if snapshot.content is not None else (),
            together=tuple(snapshot.near(item, TITLES, "together")),
            note="; ".join(_notes(snapshot, rows, item, hidden)))

    return [one(item) for item in items]


def _path(snapshot: Snapshot, code: CodeRecommender, batch: Batch, item: int) -> tuple[Level, ...]:
    """The steps from the root to the item, each with its probability among the siblings as decoding has it."""
    tree = code.tree
    path = tree.codes[item].long()
    nodes = tree.node_of(path[None])[0]
    position = int(tree.position_of(torch.tensor([item]))[0])
    state, chosen = code.generator.start(code.read(batch)), None
    parent = torch.zeros(1, dtype=torch.int64)
    levels = []
    for level in range(tree.levels):
        if path[level] < 0:
            break  # the path ends early; padding is no choice
        logits, state = code.generator.step(state, chosen)
        logp = log_probabilities(tree, level, logits.float(), parent, code.normalise)[0]
        lo, hi = (int(end[0]) for end in tree.children(level, parent))
        siblings = tree.code[level][lo:hi].long().unique()
        siblings = siblings[siblings >= 0]
        own = logp[path[level]]
        begin, end = (int(end) for end in tree.interval(level, nodes[level]))
        if level == tree.levels - 1:
            begin, end = position, position + 1
        below = tree.order[begin:end].long().numpy()
        best = below[np.argsort(-snapshot.popularity[below], kind="stable")[:TITLES]]
        levels.append(Level(int(path[level]), float(own.exp()), 1 + int((logp[siblings] > own).sum()), len(siblings), end - begin,
                            tuple(snapshot.catalog.titles[row] for row in best)))
        chosen, parent = path[level : level + 1], nodes[level : level + 1]
    return tuple(levels)


def _influences(snapshot: Snapshot, recommender: CodeRecommender | ItemRecommender | Fusion, whole: Batch, item: int,
                score: float, unread: int) -> tuple[Influence, ...]:
    """What the score loses without each history item, the greatest change first; a fusion's weights stay those of the whole history.
    unread: how many older items the model doesn't read."""
    rows, time, request = whole.item[0].numpy(), whole.time[0].numpy(), whole.request
    if len(rows) < 2:
        return ()
    if isinstance(recommender, Fusion):
        recommender = replace(recommender, weights=tuple(recommender.weights_of(whole)[0].tolist()), later=None)
    without = history_batch([np.delete(rows, place) for place in range(len(rows))],
                            [np.delete(time, place) for place in range(len(rows))], whole.user.numpy().repeat(len(rows)),
                            max_history=len(rows), requests=None if request is None else request.numpy().repeat(len(rows)))
    effect = score - recommender.score_items(without, torch.full((len(rows), 1), item))[:, 0].numpy()
    ids, titles = snapshot.catalog.items.ids, snapshot.catalog.titles
    return tuple(Influence(str(ids[rows[place]]), titles[rows[place]], unread + int(place), float(effect[place]))
                 for place in np.argsort(-np.abs(effect), kind="stable"))


def _notes(snapshot: Snapshot, rows: np.ndarray, item: int, hidden: np.ndarray) -> list[str]:
    notes = []
    if len(rows) < 2:
        notes.append("a history of one item: nothing to leave out")
    if not snapshot.alive[item]:
        notes.append("the item was removed and is not shown")
    elif item in hidden:
        notes.append("the user has the item already, so lists leave it out")
    if item >= len(snapshot.run.catalog):
        notes.append("the item came after training: nobody took it yet, what is known of it comes from its content")
    return notes

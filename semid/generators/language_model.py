"""Language model as generator: a causal network of transformers that reads a prompt over a history and writes the codes of an item.

Codes are tokens beside those of text: either new ones, each with an input vector of its own (and an output vector, where the network's
are not tied), or, with an `alphabet`, the text tokens that titles consist of. New vectors stay outside the network's table, so that they
train in full while the network is frozen or has adapters.

A prompt is read once a user. Beams are then queries of one row: they share its keys and values, and a mask says which of the columns
that beams have added are a beam's own past, so that beams are reordered by their mask alone.

Deviations from MiniOneRec (arXiv 2510.24431) and ReRe (arXiv 2510.12211): a step's softmax covers the codes of its level, not the whole
vocabulary, and no end token is written after codes (all ids have known lengths); both have mass near 1 once trained. Families whose
forward pass scales or caps the logits after the head (Cohere, Gemma 2) are used without that.

Axes: B rows, S history positions, L levels, V codes in the widest level, T tokens, C columns of the cache, M supervised positions,
R beam rows, K = R / B beams of a row, W text tokens, D width, N items.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.generators.backbone import Backbone
from semid.generators.prompts import Prompts
from semid.generators.vocabulary import CodeWriter, Vocabulary
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class LanguageState:
    """ready: float [R, D], the state after each beam's last token, or after the prompt; cache: keys and values, a row a user, of the
    prompt and of all tokens that beams were fed since, K columns a step; visible: bool [R, C], the columns that a beam sees;
    position: int64 [R], where its next token stands; level: codes that were fed."""

    ready: Tensor
    cache: Any
    visible: Tensor
    position: Tensor
    level: int

    def select(self, rows: Tensor) -> LanguageState:
        return replace(self, ready=self.ready[rows], visible=self.visible[rows], position=self.position[rows])


class LanguageModel(CodeWriter):
    """A causal network that reads prompts and writes codes.

    prompts: of its tasks, the first of which recommends; `Batch.extra["task"]` names others.
    alphabet: int64 [A], the text token of each code, the same for all levels; None = each code of a level has a token of its own.
    start: float [2, L V, D] or [1, L V, D], the first input and output vectors of new tokens, see `initial_rows`; None = zeros, for weights
    to be loaded.
    """

    embedding: nn.Embedding | None  # pyright: ignore[reportIncompatibleVariableOverride]
    alphabet: Tensor | None

    def __init__(self, backbone: Backbone, ids: SemanticIds, prompts: Prompts, *, alphabet: Tensor | None = None,
                 start: Tensor | None = None):
        super().__init__()
        self.vocabulary = Vocabulary(ids)
        self.network, self.text_head, self.prompts = backbone.network, backbone.head, prompts
        self.num_text, width = backbone.text_vectors.shape
        self.register_buffer("alphabet", alphabet)
        self.embedding = self.head = None
        if alphabet is None:
            start = torch.zeros(2, self.vocabulary.pad, width) if start is None else start
            self.embedding = nn.Embedding.from_pretrained(start[0].clone(), freeze=False)
            self.head = None if backbone.head is None else nn.Parameter(start[-1].clone())

    def with_items(self, ids: SemanticIds, tree: CodeTree, content: Tensor) -> LanguageModel:
        """Return this generator for its items and more, with the same weights in memory; it reads codes alone."""
        grown = copy.copy(self)
        grown._modules = {**self._modules, "vocabulary": copy.deepcopy(self.vocabulary)}
        grown.set_ids(ids)
        return grown

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced; -inf beyond a level's size. Every supervised position costs a prompt of its own."""
        row, position = torch.nonzero(batch.target >= 0, as_tuple=True)  # [M]
        target, step = batch.target[row, position], torch.arange(batch.item.shape[1], device=batch.item.device)
        item = torch.where(step <= position[:, None], batch.item[row], -1)  # [M, S]
        written = self._tokens(target)  # [M, L]
        tokens = self._padded(self._prompts(item, target, self._tasks(batch)[row]))
        tokens = torch.cat([tokens, written.masked_fill(written < 0, self.prompts.end)[:, :-1]], dim=1)
        return self.vocabulary.scores(self._states(tokens)[:, -self.vocabulary.levels:], self._heads())

    def responses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (scores float32 [M, W + L V], token int64 [M]) of every token of the responses to the batch's tasks, teacher forced.

        One target a row. Scores of text tokens first; with an alphabet there are no others.
        """
        target, tasks = batch.target.amax(1), self._tasks(batch)
        responses = [self._response(task, item, codes) for task, item, codes in
                     zip(tasks.tolist(), target.tolist(), self._tokens(target).tolist(), strict=True)]
        prompts = self._prompts(batch.item, target, tasks)
        tokens = self._padded([prompt + response for prompt, response in zip(prompts, responses, strict=True)])
        labels = self._padded(responses)
        labels = F.pad(labels, (tokens.shape[1] - labels.shape[1], 0), value=-1)[:, 1:]  # what follows each column
        hidden = self._states(tokens[:, :-1])[labels >= 0]  # [M, D]
        text = self._text_vectors()
        scores = F.linear(hidden.to(text.dtype), text).float()
        if self.alphabet is None:
            new = self._heads().flatten(0, 1)
            scores = torch.cat([scores, F.linear(hidden, new.to(hidden.dtype)).float()], dim=1)
        return scores, labels[labels >= 0]

    def start(self, batch: Batch) -> LanguageState:
        from transformers import DynamicCache

        tokens = self._padded(self._prompts(batch.item, batch.target.amax(1), self._tasks(batch)))
        cache = DynamicCache()  # without the config: every layer keeps all columns
        ready = self._states(tokens, cache)[:, -1]
        return LanguageState(ready, cache, tokens >= 0, (tokens >= 0).sum(1), 0)

    def step(self, state: LanguageState, codes: Tensor | None) -> tuple[Tensor, LanguageState]:
        if codes is not None:
            cache = _forked(state.cache)
            width = len(codes) // cache.layers[0].keys.shape[0]  # K
            own = torch.eye(width, dtype=torch.bool, device=codes.device).repeat(len(codes) // width, 1)  # [R, K]
            visible = torch.cat([state.visible, own], dim=1)  # [R, C + K]
            by_user = lambda tensor: tensor.unflatten(0, (-1, width))
            vectors = by_user(self._embed(self._token(codes, state.level)))  # [B, K, D]
            hidden = torch.zeros_like(visible, dtype=vectors.dtype).masked_fill_(~visible, torch.finfo(vectors.dtype).min)
            ready = self._run(vectors, by_user(hidden)[:, None], by_user(state.position), cache).flatten(0, 1)
            state = LanguageState(ready, cache, visible, state.position + 1, state.level + 1)
        return self.vocabulary.level_scores(state.ready, self._heads(), state.level), state

    def _prompts(self, item: Tensor, target: Tensor, tasks: Tensor) -> list[list[int]]:
        """item [B, S], target [B] (what tasks about one item are about), tasks [B]. Returns B lists of tokens, with room for the longest
        response of the task: room for the true one would tell its length."""
        items = torch.cat([item, target[:, None]], dim=1)  # [B, S + 1]
        rows = zip(tasks.tolist(), items.tolist(), self._tokens(items).tolist(), strict=True)
        found = []
        for task, items, codes in rows:
            places = range(len(items) - 1) if self.prompts.tasks[task].is_history else [len(items) - 1]
            shown = [self._shown(task, items[place], codes[place]) for place in places if items[place] >= 0]
            longest = self.prompts.longest_title if self.prompts.tasks[task].writes == "title" else self.vocabulary.levels
            found.append(self.prompts.prompt(task, shown, longest + 1))
        return found

    def _shown(self, task: int, item: int, codes: list[int]) -> Sequence[int]:
        if self.prompts.tasks[task].reads == "title":
            return self.prompts.titles[item]
        return [token for token in codes if token >= 0 and token != self.prompts.end]

    def _response(self, task: int, item: int, codes: list[int]) -> list[int]:
        """Return the tokens of an answer, its end included; titles that end with their last code already get no other end."""
        if self.prompts.tasks[task].writes == "title":
            return [*self.prompts.titles[item], self.prompts.end]
        return [token for token in codes if token >= 0 and token != self.prompts.end] + [self.prompts.end]

    def _tasks(self, batch: Batch) -> Tensor:
        return batch.extra["task"] if "task" in batch.extra else torch.zeros_like(batch.length)

    def _tokens(self, item: Tensor) -> Tensor:
        """item int64 [...] (-1 pads) -> token int64 [..., L]; -1 where an item has no code."""
        codes = self.codes[item]
        return torch.where(codes < 0, -1, self._token_of(codes, torch.arange(self.vocabulary.levels, device=codes.device)))

    def _token(self, codes: Tensor, level: int) -> Tensor:
        """Codes of one level, int64 [R] (-1 = none, read as the end) -> token int64 [R]."""
        return torch.where(codes < 0, self.prompts.end, self._token_of(codes, level))

    def _token_of(self, codes: Tensor, level: Tensor | int) -> Tensor:
        if self.alphabet is not None:
            return self.alphabet[codes.clamp_min(0)]
        return self.num_text + codes + level * self.vocabulary.width

    def _padded(self, rows: list[list[int]]) -> Tensor:
        """Return int64 [B, T], -1 pads left, on the device of the codes."""
        width = max(map(len, rows))
        padded = np.full((len(rows), width), -1)
        for place, row in enumerate(rows):
            padded[place, width - len(row):] = row
        return torch.from_numpy(padded).to(self.codes.device)

    def _embed(self, tokens: Tensor) -> Tensor:
        """token int64 [...] (-1 pads) -> vectors [..., D] in the network's precision."""
        text = self.network.get_input_embeddings()(tokens.clamp(0, self.num_text - 1))
        if self.embedding is None:
            return text
        new = self.embedding((tokens - self.num_text).clamp_min(0)).to(text.dtype)
        return torch.where((tokens >= self.num_text)[..., None], new, text)

    def _states(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """tokens int64 [B, T], -1 pads left -> states [B, T, D]; `cache` is filled in place."""
        real = tokens >= 0
        return self._run(self._embed(tokens), real.long(), (real.cumsum(1) - 1).clamp_min(0), cache)

    def _run(self, vectors: Tensor, mask: Tensor, position: Tensor, cache: Any) -> Tensor:
        """Return states [B, T, D] in float32: codes are scored in it, also where the network isn't."""
        return self.network(inputs_embeds=vectors, attention_mask=mask, position_ids=position, past_key_values=cache,
                            use_cache=cache is not None).last_hidden_state.float()

    def _text_vectors(self) -> Tensor:
        """Output vectors [W, D] of the text tokens."""
        return self.network.get_input_embeddings().weight if self.text_head is None else self.text_head

    def _heads(self) -> Tensor:
        if self.alphabet is not None:
            return self._text_vectors()[self.alphabet].expand(self.vocabulary.levels, -1, -1)
        assert self.embedding is not None
        table = self.embedding.weight if self.head is None else self.head
        return table.view(self.vocabulary.levels, self.vocabulary.width, -1)


def _forked(cache: Any) -> Any:
    """Return a cache that grows by itself: layers put new tensors in the place of the old ones, which the first keeps."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def initial_rows(vectors: Tensor, titles: Sequence[Sequence[int]], ids: SemanticIds) -> Tensor:
    """Return float32 [L V, D]: where the vectors of new tokens start, in the space of the text vectors float [W, D].

    An item is the mean vector of its title's tokens. A code is the mean of its items, less what the levels before it have said of them
    (as residual quantisation has it), stretched to the spread of text vectors around their mean; codes without items and items without a
    title stay at the mean. So text and codes that mean the same are near each other from the first step.
    Source: this project.
    """
    vectors = vectors.detach().float()
    mean, spread = vectors.mean(0), (vectors - vectors.mean(0)).square().mean().sqrt()
    rest = torch.stack([vectors[torch.tensor(tokens)].mean(0) if len(tokens) else mean for tokens in titles]) - mean  # [N, D]
    rest = rest - rest.mean(0)
    rows = mean.repeat(len(ids.sizes), max(ids.sizes), 1)  # [L, V, D]
    for level, codes in enumerate(torch.from_numpy(ids.codes.astype(np.int64)).T):
        has, code = codes >= 0, codes.clamp_min(0)
        total = torch.zeros_like(rows[level]).index_add_(0, code[has], rest[has])
        centroid = total / torch.bincount(code[has], minlength=len(total)).clamp_min(1)[:, None]  # [V, D]
        used = centroid[code[has].unique()]
        rows[level] += centroid * (spread / used.square().mean().sqrt().clamp_min(1e-9))
        rest = torch.where(has[:, None], rest - centroid[code], rest)
    return rows.flatten(0, 1)


def title_codes(titles: Sequence[Sequence[int]], end: int, source: str) -> tuple[SemanticIds, np.ndarray]:
    """Return ids whose codes spell titles token by token, each closed by `end`, and their alphabet int64 [A].

    So no title is the beginning of another; equal titles have equal codes. Raises `ConfigError` for a title without tokens.
    """
    if empty := [row for row, title in enumerate(titles) if not len(title)]:
        raise ConfigError(f"titles: want a title of one token at least for each item, got none in row {empty[0]}"
                          f"{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}; give each item a title")
    alphabet = np.unique(np.concatenate([[end], *titles]))
    codes = np.full((len(titles), max(map(len, titles)) + 1), -1, np.int32)
    for row, title in enumerate(titles):
        codes[row, : len(title) + 1] = np.searchsorted(alphabet, [*title, end])
    return SemanticIds(codes, (len(alphabet),) * codes.shape[1], source=source), alphabet.astype(np.int64)

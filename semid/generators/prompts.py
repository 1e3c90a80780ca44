"""What a language model is asked and what it shall answer, in tokens: an instruction, a user's input, a response.

Pieces of text are tokenised apart and joined as tokens, so that a prompt is the same in training, in rollouts and in use, and where its
response begins needs no search. The oldest items of a history are left out where a prompt would be too long with the longest response of
its task: what is shown doesn't depend on the answer.

Source: the alignment tasks of MiniOneRec, arXiv 2510.24431, which are LC-Rec's (arXiv 2311.09049).
Axes: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from semid.errors import ConfigError

Form = Literal["codes", "title"]


@dataclass(frozen=True)
class Task:
    """reads, writes: how items are shown and how the answer is written; is_history: it reads a user's items and writes the next one,
    otherwise it says one item in the other form."""

    instruction: str
    reads: Form
    writes: Form
    is_history: bool = True


TASKS = (
    Task("A customer took the items with these identifiers, the oldest first. Write the identifier of the item that comes next.",
         "codes", "codes"),
    Task("A customer took the items with these identifiers, the oldest first. Write the title of the item that comes next.",
         "codes", "title"),
    Task("A customer took the items with these titles, the oldest first. Write the title of the item that comes next.",
         "title", "title"),
    Task("A customer took the items with these titles, the oldest first. Write the identifier of the item that comes next.",
         "title", "codes"),
    Task("This is the title of an item. Write its identifier.", "title", "codes", is_history=False),
    Task("This is the identifier of an item. Write its title.", "codes", "title", is_history=False),
)
"""MiniOneRec's tasks; the first is the one that recommends."""

NEXT_TITLE = (
    Task("A customer took the items with these titles, the oldest first. Write the title of the item that comes next.", "codes", "codes"),
)
"""ReRe's task, where the codes of an item are the tokens of its title."""

BEFORE, AFTER = "### Instruction:\n{}\n\n### User Input:\n", "\n\n### Response:\n"
"""What stands before and after the items that a task shows."""


@dataclass(frozen=True)
class Prompts:
    """before: tokens of each task up to the items; between: of two items; after: up to the response; end: the token that ends a response.

    titles: N lists of tokens, empty where the tasks need none. limit: tokens of a prompt with its response.
    """

    tasks: tuple[Task, ...]
    before: tuple[tuple[int, ...], ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    end: int
    limit: int
    titles: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, tasks: tuple[Task, ...], tokenizer: Any, *, limit: int, titles: Sequence[Sequence[int]] = ()) -> Prompts:
        """Tokenise the frame with a tokenizer of transformers; its pad token isn't asked for. Raises `ConfigError` for one without an
        end token, or that knows no text, as transformers makes one where a folder holds no tokenizer."""
        if tokenizer.eos_token_id is None:
            raise ConfigError("language model: want a tokenizer with an end-of-text token, which ends responses, got one without; "
                              "set its eos_token and save it again")
        if not (after := tokens_of(tokenizer, AFTER)):
            raise ConfigError("language model: want a tokenizer that knows text, got one that has no token for any; put the tokenizer's "
                              "files (tokenizer.json, tokenizer_config.json) beside the weights")
        start = [token for token in tokenizer("").input_ids if token == tokenizer.bos_token_id]
        before = tuple((*start, *tokens_of(tokenizer, BEFORE.format(task.instruction))) for task in tasks)
        return cls(tasks, before, tokens_of(tokenizer, ", "), after, tokenizer.eos_token_id, limit, titles)

    @cached_property
    def longest_title(self) -> int:
        """Tokens of the longest title; 0 where there is none."""
        return max(map(len, self.titles), default=0)

    def prompt(self, task: int, shown: Sequence[Sequence[int]], room: int) -> list[int]:
        """Return the tokens of a prompt over items in tokens, oldest first, that leaves `room` for its response."""
        left = self.limit - room - len(self.before[task]) - len(self.after)
        kept: list[int] = []
        for item in reversed(shown):
            piece = [*item, *(self.between if kept else ())]
            if len(kept) + len(piece) > left:
                break
            kept = piece + kept
        return [*self.before[task], *kept, *self.after]

    def check_room(self, item: int, count: int = 1) -> None:
        """Raise `ConfigError` unless `count` items of `item` tokens fit into a prompt, with one more as its response."""
        frame = max(len(before) for before in self.before) + len(self.after)
        if (needed := frame + count * (item + len(self.between)) + item + 1) > self.limit:
            fits = max(0, (self.limit - frame - item - 1) // (item + len(self.between)))
            raise ConfigError(f"language model: a prompt of {count} items of {item} tokens takes {needed} tokens, more than the "
                              f"{self.limit} of max_tokens, into which {fits} items fit; want a larger max_tokens, shorter titles or a "
                              "shorter history")


def tokens_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def title_tokens(tokenizer: Any, titles: Sequence[str], most: int) -> list[list[int]]:
    """Return the first `most` tokens of each title, white space made single."""
    clean = [" ".join(title.split()) for title in titles]
    return [list(tokens[:most]) for tokens in tokenizer(clean, add_special_tokens=False).input_ids]

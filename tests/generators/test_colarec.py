"""The two readings of ColaRec: users as sets of items, items with one who took them; and where the end token stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.generators.colarec import END, FIRST, OF_ITEM, OF_USER, PAD, ColaRec
from semid.types import SemanticIds

ITEMS, USERS, WORDS = 12, 5, 7
IDS = SemanticIds(np.stack(np.unravel_index(np.arange(ITEMS), (3, 2, 2)), axis=1).astype(np.int32), (3, 2, 2))
ROWS = torch.tensor([[item % WORDS, (3 * item) % WORDS, -1 if item % 2 else item % 5] for item in range(ITEMS)])


def model(**changes) -> ColaRec:
    torch.manual_seed(0)
    settings = {"width": 16, "heads": 2, "head_width": 8, "layers": 2, "feedforward": 32, "dropout": 0.0, **changes}
    return ColaRec(IDS, ROWS, num_words=WORDS, num_users=USERS, **settings).eval()


def by_hand(generator: ColaRec, task: int, items: list[int], taker: int | None, most: int = 256) -> torch.Tensor:
    """The state at the end token of one user or item, its tokens written out one after another."""
    tokens = []
    for item in items:
        tokens += [FIRST + item, *(FIRST + ITEMS + word for word in ROWS[item].tolist() if word >= 0)]
    rows = [generator.input.weight[token] for token in [task, *tokens[: most - 3]]]
    rows += [] if taker is None else [generator.user.weight[taker]]
    x = torch.stack([*rows, generator.input.weight[END]])[None]
    return generator.encoder(x, torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool))[0, -1]


def test_readings_equal_tokens_written_out():
    generator = model()
    described = generator.read_history(torch.tensor([[3, 1, 8], [5, -1, -1], [-1, -1, -1]]))
    for row, items in enumerate(([8, 1, 3], [5], [])):  # the latest first
        torch.testing.assert_close(described.summary[row], by_hand(generator, OF_USER, items, None), rtol=1e-5, atol=1e-5)
    described = generator.read_items(torch.tensor([7, 2, 2]), torch.tensor([4, 0, -1]))
    for row, (item, taker) in enumerate(((7, 4), (2, 0), (2, USERS))):
        torch.testing.assert_close(described.summary[row], by_hand(generator, OF_ITEM, [item], taker), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_the_oldest():
    generator, item = model(max_tokens=10), torch.tensor([[3, 1, 8], [1, 4, -1]])
    torch.testing.assert_close(generator.read_history(item).summary[0], by_hand(generator, OF_USER, [8, 1, 3], None, 10),
                               rtol=1e-5, atol=1e-5)
    older = torch.tensor([[0, 1, 8], [1, 4, -1]])  # eight and a half are read: all of the latest two, nothing of this one but its id
    changed = generator.read_history(older).summary
    torch.testing.assert_close(changed[1], generator.read_history(item).summary[1])


def test_a_bag_is_one_token_whose_words_have_no_order():
    generator = model(is_bag=True)
    described = generator.read_history(torch.tensor([[3, 1, 8], [5, -1, -1]]))
    assert described.memory.shape[1] == 5  # the task, three items, the end
    tokens = lambda item: [FIRST + item, *(FIRST + ITEMS + word for word in ROWS[item].tolist() if word >= 0)]
    rows = [generator.input.weight[OF_USER], *(generator.input.weight[tokens(item)].mean(0) for item in (8, 1, 3)),
            generator.input.weight[END]]
    want = generator.encoder(torch.stack(rows)[None], torch.ones(1, 1, 1, 5, dtype=torch.bool))[0, -1]
    torch.testing.assert_close(described.summary[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_bag", [False, True])
def test_without_ids_items_of_equal_words_are_equal(is_bag):
    generator, with_ids = model(has_ids=False, is_bag=is_bag), model(is_bag=is_bag)
    twins = torch.tensor([2, 4])
    for each in (generator, with_ids):
        each.words[4] = each.words[2]
    nobody = torch.tensor([-1, -1])
    first, second = generator.read_items(twins, nobody).summary
    torch.testing.assert_close(first, second)
    first, second = with_ids.read_items(twins, nobody).summary
    assert not torch.allclose(first, second, atol=1e-4)


def test_users_are_told_apart_by_their_items_alone_and_items_by_who_took_them():
    generator = model()
    item, taker = torch.tensor([3, 3]), torch.tensor([0, 1])
    one, other = generator.read_items(item, taker).summary
    assert not torch.allclose(one, other, atol=1e-4)
    stranger = generator.read_items(item, torch.tensor([-1, 99])).summary  # both are nobody we know
    torch.testing.assert_close(stranger[0], stranger[1])


def test_padding_has_no_vector_and_gets_no_gradient():
    generator = model().train()
    generator.write(generator.read_history(torch.tensor([[3, -1, -1]])), torch.tensor([4])).logsumexp(2).sum().backward()
    assert not generator.input.weight[PAD].any()
    assert generator.input.weight.grad is not None
    assert not generator.input.weight.grad[PAD].any()
    read = {int(token) for token in generator.input.weight.grad.abs().sum(1).nonzero()}
    assert read == {OF_USER, END, FIRST + 3, *(FIRST + ITEMS + word for word in ROWS[3].tolist() if word >= 0)}

"""Sets have no order: siblings don't see each other, slots may be permuted, queries are answered at once and alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.generators.setrec import SETRec, even
from semid.types import Batch

ITEMS, SEMANTIC, WIDTH = 14, 3, 16
CF = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(ITEMS, 9, generator=torch.Generator().manual_seed(2))


def model(*, cf=CF, text=TEXT, **changes) -> SETRec:
    torch.manual_seed(0)
    settings = {"semantic": SEMANTIC, "hidden": (12,), "width": WIDTH, "heads": 2, "head_width": 8, "layers": 2, "feedforward": 32,
                "dropout": 0.0, **changes}
    return SETRec(cf, text, **settings).eval()


def a_batch(*histories: list[int]) -> Batch:
    return history_batch([np.array(history, np.int64) for history in histories], max_history=10)


def memory(generator: SETRec, vectors: torch.Tensor, *histories: list[int]) -> torch.Tensor:
    """What the encoder says, [B, S, Q, D]."""
    kept = []
    handle = generator.encoder.register_forward_hook(lambda module, inputs, output: kept.append(output))
    generator.after(a_batch(*histories), vectors)
    handle.remove()
    return kept[0].unflatten(1, (-1, generator.slots))


def perturbed(vectors: torch.Tensor, item: int, slot: int) -> torch.Tensor:
    changed = vectors.clone()
    changed[item, slot] += torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    return changed


@pytest.mark.parametrize("causal", [False, True])
def test_a_vector_does_not_see_the_others_of_its_item(causal):
    generator = model(layers=1, causal=causal)
    vectors = generator.item_vectors()
    before, after = (memory(generator, v, [3, 7, 5]) for v in (vectors, perturbed(vectors, 7, 1)))
    assert torch.equal(before[0, 1, [0, 2, 3]], after[0, 1, [0, 2, 3]])
    assert not torch.allclose(before[0, 1, 1], after[0, 1, 1])
    assert not torch.allclose(before[0, 2], after[0, 2], atol=1e-4)  # the item after it sees all
    assert torch.equal(before[0, 0], after[0, 0]) == causal
    alone = model(layers=3, causal=causal)  # with no other item there is no path between siblings, however deep
    before, after = (memory(alone, v, [7]) for v in (vectors, perturbed(vectors, 7, 1)))
    assert torch.equal(before[0, 0, [0, 2, 3]], after[0, 0, [0, 2, 3]])


def test_without_the_sparse_mask_siblings_see_each_other():
    generator = model(layers=1, is_sparse=False)
    vectors = generator.item_vectors()
    before, after = (memory(generator, v, [3, 7, 5]) for v in (vectors, perturbed(vectors, 7, 1)))
    assert not torch.allclose(before[0, 1, 0], after[0, 1, 0], atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"is_sparse": False}, {"causal": True}])
def test_slots_in_another_order_are_the_same_slots(changes):
    """Order-agnostic: permute the vectors of content and their queries, and the answers are permuted, the scores the same."""
    generator, other, order = model(**changes), model(**changes), torch.tensor([2, 0, 1])
    assert other.encode is not None
    with torch.no_grad():
        last = other.encode[-1]
        last.weight.copy_(last.weight.unflatten(0, (SEMANTIC, WIDTH))[order].flatten(0, 1))
        other.query[1:] = other.query[1:][order].clone()
    batch = a_batch([3, 7, 5], [1])
    states, permuted = (g.after(batch, g.item_vectors()) for g in (generator, other))
    torch.testing.assert_close(permuted[:, 1:], states[:, 1:][:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(permuted[:, 0], states[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.score(batch), generator.score(batch), rtol=1e-4, atol=1e-5)


def test_the_order_of_items_is_seen():
    generator = model()
    one, other = generator.score(a_batch([3, 7, 5])), generator.score(a_batch([5, 7, 3]))
    assert not torch.allclose(one, other, atol=1e-4)


def test_states_are_divided_by_the_root_of_the_width():
    generator, kept = model(), []
    vectors = generator.item_vectors()
    generator.decoder.register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = generator.after(a_batch([1, 2, 3]), vectors)
    torch.testing.assert_close(found[0], kept[0][0] / WIDTH**0.5)


def test_queries_do_not_see_each_other():
    generator, other = model(), model()
    with torch.no_grad():
        other.query[2] += 1
    states, changed = (g.after(a_batch([3, 7]), g.item_vectors()) for g in (generator, other))
    assert torch.equal(states[:, [0, 1, 3]], changed[:, [0, 1, 3]])
    assert not torch.allclose(states[:, 2], changed[:, 2])


@pytest.mark.parametrize("semantic", [1, 5])
def test_a_request_is_one_pass_of_the_decoder(semantic):
    generator, calls = model(semantic=semantic), []
    generator.decoder.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    generator.score(a_batch([3, 7, 5], [1]))
    assert calls == [(2, 1 + semantic, WIDTH)]


@pytest.mark.parametrize("causal", [False, True])
def test_company_and_padding_change_nothing_and_an_empty_history_has_an_answer(causal):
    generator = model(causal=causal)
    together = generator.score(a_batch([3, 7, 5], [1], []))
    for row, history in enumerate(([3, 7, 5], [1], [])):
        torch.testing.assert_close(generator.score(a_batch(history))[0], together[row], rtol=1e-5, atol=1e-5)
    assert together.isfinite().all()


def test_one_causal_pass_equals_a_pass_for_each_target():
    generator = model(causal=True)
    batch = a_batch([3, 7, 5], [1, 2])
    batch.target[:] = torch.tensor([[7, -1, 9], [2, 4, -1]])
    vectors = generator.item_vectors()
    apart = torch.cat([generator.after(a_batch(h), vectors) for h in ([3], [3, 7, 5], [1], [1, 2])])
    torch.testing.assert_close(generator.supervised(batch, vectors), apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_scores_equal_numpy(beta):
    generator = model(beta=beta)
    batch = a_batch([3, 7, 5], [1])
    with torch.no_grad():
        vectors = generator.item_vectors()
        states = generator.after(batch, vectors)
    weight = np.array([1 - beta, beta, beta, beta])
    want = np.einsum("bqd,q,nqd->bn", states.numpy(), weight, vectors.numpy())
    np.testing.assert_allclose(generator.score(batch).detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_one_kind_of_vectors_alone_counts_in_full():
    assert model(text=None).weights().tolist() == [1]
    assert model(cf=None).weights().tolist() == [1] * SEMANTIC


def test_item_vectors_are_made_of_even_input_and_again_after_training():
    generator = model()
    assert even(CF).square().mean().item() == pytest.approx(1)
    assert generator.project is not None
    with torch.no_grad():
        torch.testing.assert_close(generator.item_vectors()[:, 0], generator.project(even(CF)))
        assert generator.item_vectors() is generator.item_vectors()
        before = generator.item_vectors()
        generator.train()
        generator.project.weight.mul_(2)
        generator.eval()
        assert not torch.allclose(generator.item_vectors(), before)

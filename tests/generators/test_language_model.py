"""A language model as generator: cached steps equal whole passes and transformers' own, whatever the model folder says of decoding."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.decoding.beam import beam_search
from semid.decoding.exhaustive import exhaustive
from semid.decoding.free import valid_share
from semid.errors import ConfigError, MissingExtra
from semid.generators.backbone import LoRA, add_adapters, read_backbone
from semid.generators.language_model import initial_rows, title_codes
from semid.generators.prompts import TASKS, Prompts, title_tokens
from semid.objectives.next_codes import NextCodes
from semid.objectives.paths import frozen, paths
from semid.objectives.responses import Responses
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds
from tests.generators.language import ITEMS, SIZES, TITLES, language_model, save_model, some_ids, with_codes

pytest.importorskip("transformers")
ROWS, AFTER = [[1, 2, 3], [4], [9, 8, 7, 6, 5]], [10, 11, 12]
NO_TARGET = [-1, -1, -1]
FOLDERS = {"tied": {}, "apart": {"is_tied": False}, "llama": {"family": "llama", "is_tied": False}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save_model(tmp_path_factory.mktemp(name), **options) for name, options in FOLDERS.items()}


def histories(rows, after, *, pad=0):
    """A target after each whole history; `pad` more columns than needed."""
    width = max(map(len, rows)) + pad
    item = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    length = torch.tensor([len(row) for row in rows])
    target = torch.full_like(item, -1)
    target[torch.arange(len(rows)), length - 1] = torch.tensor(after)
    return Batch(item, torch.zeros_like(item), length, target, torch.zeros(len(rows), dtype=torch.int64))


def stepped(model, batch, codes):
    """Logits [B, L, V] along codes [B, L], a step each."""
    state, fed, found = model.start(batch), None, []
    for level in range(codes.shape[1]):
        logits, state = model.step(state, fed)
        found.append(logits)
        fed = codes[:, level].clamp_min(0)
    return torch.stack(found, 1)


@pytest.mark.parametrize("writes", ["codes", "titles"])
@pytest.mark.parametrize("kind", ["tied", "apart", "llama"])
def test_cached_steps_equal_a_whole_pass(folders, kind, writes):
    model, batch = language_model(folders[kind], writes=writes), histories(ROWS, AFTER)
    codes = model.codes[AFTER]
    real = codes >= 0
    torch.testing.assert_close(stepped(model, batch, codes)[real], model.logits(batch)[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tied", "apart"])
def test_scores_equal_those_of_the_hub_s_model_with_the_same_tokens(folders, kind):
    """Independent: transformers resizes its own table, we put our rows there; one plain forward pass over each whole sequence."""
    import transformers

    model, batch = language_model(folders[kind]), histories(ROWS, NO_TARGET)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[kind])
    first = model.num_text
    theirs.resize_token_embeddings(first + 18, mean_resizing=False)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[first:] = model.embedding.weight
        theirs.get_output_embeddings().weight[first:] = model.embedding.weight if model.head is None else model.head
        scores = exhaustive(model, batch, CodeTree.build(some_ids()))
        for row, history in enumerate(ROWS):
            spelled = lambda item: [first + level * 6 + int(code) for level, code in enumerate(some_ids().codes[item])]
            shown = [spelled(item) for item in [*history, *range(ITEMS)]]
            prompt = model.prompts.prompt(0, shown[: len(history)], 4)
            for item, written in enumerate(shown[len(history):]):
                logits = theirs(torch.tensor([prompt + written])).logits[0, -4:-1]
                blocks = [torch.log_softmax(logits[level, first + 6 * level:][: SIZES[level]], 0) for level in range(3)]
                logp = sum(block[token - first - 6 * level] for level, (block, token) in enumerate(zip(blocks, written, strict=True)))
                assert scores[row, item].item() == pytest.approx(logp.item(), abs=1e-4)


def test_a_response_s_loss_equals_the_hub_s_model(folders):
    import transformers

    model = language_model(folders["tied"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders["tied"])
    batch = histories(ROWS, AFTER)
    batch.extra["task"] = torch.tensor([1, 1, 2])  # titles alone are written, of titles and of codes
    theirs.resize_token_embeddings(model.num_text + 18, mean_resizing=False)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[model.num_text:] = model.embedding.weight
        loss = Responses()(model, batch).total
        total = count = 0
        for row, task in enumerate([1, 1, 2]):
            response = [*model.prompts.titles[AFTER[row]], model.prompts.end]
            shown = [model.prompts.titles[i] if task == 2 else model._tokens(torch.tensor(i)).tolist() for i in ROWS[row]]
            prompt = model.prompts.prompt(task, shown, len(response))
            labels = torch.tensor([[-100] * len(prompt) + response])
            total += theirs(torch.tensor([prompt + response]), labels=labels).loss * len(response)
            count += len(response)
    torch.testing.assert_close(loss, total / count, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("writes", ["codes", "titles"])
def test_beams_as_wide_as_the_catalogue_are_exhaustive_and_all_real(folders, writes):
    model, batch = language_model(folders["tied"], writes=writes), histories(ROWS, NO_TARGET)
    tree = CodeTree.build(SemanticIds(model.codes[:-1].int().numpy(), model.vocabulary.sizes))
    beams, scores = beam_search(model, batch, tree, beams=ITEMS), exhaustive(model, batch, tree)
    assert (beams.item.sort(1).values == torch.arange(ITEMS)).all()
    torch.testing.assert_close(beams.logp, scores.gather(1, beams.item), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beams.logp, scores.sort(1, descending=True).values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("writes", ["codes", "titles"])
def test_left_alone_it_writes_items_that_are_not_there_and_with_the_tree_none(folders, writes):
    model, batch = language_model(folders["tied"], writes=writes), histories(ROWS, NO_TARGET)
    tree = CodeTree.build(SemanticIds(model.codes[:-1].int().numpy(), model.vocabulary.sizes))
    assert valid_share(model, batch, tree, beams=16) < 0.6
    found, items = beam_search(model, batch, tree, beams=16), set(map(tuple, model.codes[:-1].tolist()))
    assert all(tuple(path) in items for path in found.codes.flatten(0, 1).tolist())


def test_what_a_model_folder_says_of_decoding_changes_no_beam(folders, tmp_path):
    """generation_config.json is what `generate` inherits: two candidates a step, sampled, hot, with penalties."""
    says = {"top_k": 2, "top_p": 0.3, "do_sample": True, "temperature": 3.0, "repetition_penalty": 5.0, "num_beams": 2}
    folder = save_model(tmp_path / "hot", generation=says)
    tree, batch = CodeTree.build(some_ids()), histories(ROWS, NO_TARGET)
    plain, hot = (beam_search(language_model(each), batch, tree, beams=20) for each in (folders["tied"], folder))
    assert torch.equal(plain.item, hot.item)
    assert torch.equal(plain.logp, hot.logp)
    assert all(len(row.unique()) == 20 for row in hot.item)
    assert len(hot.codes[0, :, 0].unique()) > 2  # top_k = 2 would leave two first codes


def test_padding_and_company_change_nothing(folders):
    model, tree = language_model(folders["tied"]), CodeTree.build(some_ids())
    together = beam_search(model, histories(ROWS, NO_TARGET, pad=3), tree, beams=10)
    for row, history in enumerate(ROWS):
        alone = beam_search(model, histories([history], [-1]), tree, beams=10)
        assert torch.equal(alone.item[0], together.item[row])
        torch.testing.assert_close(alone.logp[0], together.logp[row], rtol=1e-4, atol=1e-5)


def test_candidates_of_a_history_share_its_prompt_and_pass_gradients(folders):
    model, batch = language_model(folders["tied"]), histories(ROWS, AFTER)
    items = torch.tensor([[10, 3, 0], [11, 29, 1], [12, 5, 6]])
    followed = paths(model, batch, items)
    expected = torch.stack([-NextCodes()(model, histories([ROWS[row]], [int(item)])).total for row in range(3) for item in items[row]])
    torch.testing.assert_close(followed.logp.sum(2).flatten(), expected, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(expected.sum(), model.embedding.weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(followed.logp.sum(), model.embedding.weight)[0], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "apart"])
def test_new_tokens_train_in_full_beside_adapters_and_nothing_else_does(folders, kind):
    pytest.importorskip("peft")
    model, batch = language_model(folders[kind]).train(), histories(ROWS, AFTER)
    before = model.logits(batch).detach()
    model.network.requires_grad_(False)
    if model.text_head is not None:
        model.text_head.requires_grad_(False)
    add_adapters(model.network, LoRA(rank=2, alpha=4, dropout=0.0))
    torch.testing.assert_close(model.logits(batch), before)  # adapters begin at zero
    Responses()(model, batch).total.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert "embedding.weight" in moved
    assert (model.head is None) or ("head" in moved)
    assert any("lora_B" in name for name in moved)
    assert all(name in ("embedding.weight", "head") or "lora_" in name for name in moved)
    rows = model.embedding.weight.grad.abs().sum(1) > 0
    shown = {int(token) - model.num_text for row in [*ROWS, AFTER] for token in model._tokens(torch.tensor(row)).flatten()}
    assert shown <= set(torch.nonzero(rows).flatten().tolist())
    reference = frozen(model)
    assert reference.network.get_input_embeddings().weight is model.network.get_input_embeddings().weight  # not copied
    assert reference.embedding.weight is not model.embedding.weight


def test_more_items_share_the_weights(folders):
    model = language_model(folders["tied"])
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
    more = SemanticIds(np.random.default_rng(0).permutation(every)[: ITEMS + 5].astype(np.int16), SIZES)
    tree = CodeTree.build(more)
    grown = model.with_items(more, tree, torch.empty(5, 0))
    assert grown.network is model.network
    assert len(model.codes) == ITEMS + 1
    found = beam_search(grown, histories([[1, 33]], [-1]), tree, beams=ITEMS + 5)
    assert set(found.item[0].tolist()) == set(range(ITEMS + 5))


def test_the_oldest_items_are_left_out_of_long_prompts(folders):
    model = language_model(folders["tied"])
    prompts = model.prompts
    shown = [list(title) for title in prompts.titles[:6]]
    room = len(prompts.before[2]) + len(prompts.after) + 10
    short = replace(prompts, limit=room + len(shown[5]) + len(prompts.between) + len(shown[4]))
    made = short.prompt(2, shown, 10)
    assert made == [*prompts.before[2], *shown[4], *prompts.between, *shown[5], *prompts.after]
    assert len(made) + 10 == short.limit
    with pytest.raises(ConfigError, match=r"a prompt of 10 items of 3 tokens takes \d+ tokens, more than the 40 .* into which 0 items fit"):
        replace(prompts, limit=40).check_room(3, 10)


@pytest.mark.parametrize(("writes", "task"), [("codes", 1), ("titles", 0)])
def test_prompts_in_training_are_those_in_use_and_do_not_know_the_answer_s_length(folders, writes, task, monkeypatch):
    """The limit binds: with room for its own answer alone a prompt would show more items where the title to write is short."""
    model, batch = language_model(folders["tied"], writes=writes, is_uneven=True), histories([list(range(10))] * 2, [0, 2])
    batch.extra["task"] = torch.tensor([task] * 2)
    frame, shown, whole = len(model.prompts.before[task]) + len(model.prompts.after), [], Prompts.prompt
    monkeypatch.setattr(Prompts, "prompt", lambda *given: shown.append(whole(*given)) or shown[-1])
    for room in range(15, 25):
        shown.clear()
        model.prompts = replace(model.prompts, limit=frame + room)
        model.responses(batch)
        model.start(batch)
        assert len(shown) == 4
        assert all(prompt == shown[0] for prompt in shown)


def test_a_tokenizer_needs_no_pad_token_but_an_end(tmp_path):
    """A GPT-2 model's folder, whose tokenizer class has no default for either."""
    backbone, tokenizer = read_backbone(str(save_model(tmp_path / "padless", family="gpt2")))
    assert tokenizer.pad_token is None
    model, tree = with_codes(backbone, tokenizer, title_tokens(tokenizer, TITLES, 20), 300).eval(), CodeTree.build(some_ids())
    together = beam_search(model, histories(ROWS, NO_TARGET), tree, beams=10)
    alone = beam_search(model, histories(ROWS[1:2], [-1]), tree, beams=10)
    assert torch.equal(alone.item[0], together.item[1])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="want a tokenizer with an end-of-text token"):
        Prompts.of(TASKS, tokenizer, limit=300)


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="language model: want a model on the hub or in a folder, got 'semid/absent', which cannot be.*"
                                          r"or take a new network \(tuning.model=new\)"):
        read_backbone("semid/absent")


@pytest.mark.parametrize(("module", "call"), [
    ("transformers", lambda folder: read_backbone(str(folder))),
    ("peft", lambda folder: add_adapters(torch.nn.Linear(2, 2), LoRA())),
])
def test_a_missing_library_names_the_extra(module, call, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"language model: .*{module}.* not installed; pip install 'semid\[llm\]'"):
        call(folders["tied"])


def test_new_tokens_start_at_their_items_titles_less_what_earlier_levels_said(folders):
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 0.1 + 1
    titles = [[1, 2], [3], [4, 5, 6], []]
    ids = SemanticIds(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int16), (3, 2))
    table = vectors.numpy().astype(np.float64)
    mean = table.mean(0)
    rest = np.stack([table[title].mean(0) if title else mean for title in titles]) - mean
    rest -= rest.mean(0)
    spread = np.sqrt(((table - mean) ** 2).mean())
    expected = np.tile(mean, (2, 3, 1))
    for level in range(2):
        centroid = np.stack([rest[ids.codes[:, level] == code].mean(0) for code in range(2)])
        expected[level, :2] += centroid * spread / np.sqrt((centroid**2).mean())
        rest = rest - centroid[ids.codes[:, level]]
    np.testing.assert_allclose(initial_rows(vectors, titles, ids).numpy(), expected.reshape(6, 8), rtol=1e-4, atol=1e-5)


def test_no_title_is_the_beginning_of_another_and_equal_ones_share_their_codes():
    ids, alphabet = title_codes([[5, 9], [5], [5, 9], [7, 9, 9]], 2, "titles")
    assert [[int(alphabet[code]) for code in row if code >= 0] for row in ids.codes] == [[5, 9, 2], [5, 2], [5, 9, 2], [7, 9, 9, 2]]
    assert ids.num_distinct == 3
    with pytest.raises(ConfigError, match="got none in row 1"):
        title_codes([[5], []], 2, "titles")


def test_titles_are_cut_and_their_white_space_is_single(folders):
    _, tokenizer = read_backbone(str(folders["tied"]))
    plain, messy = title_tokens(tokenizer, ["red  nail\n small", "red nail small"], 20)
    assert plain == messy
    assert all(len(tokens) == 1 for tokens in title_tokens(tokenizer, TITLES, 1))


def test_all_tasks_have_prompts_and_responses(folders):
    """Every task's response is what its batch asks for, and only its tokens are scored."""
    model = language_model(folders["tied"])
    batch = histories([[1, 2]] * 4 + [[0], [0]], [3] * 6)
    batch.item[4:] = -1
    batch.length[4:] = 0
    batch.extra["task"] = torch.arange(6)
    scores, token = model.responses(batch)
    codes, title, end = model._tokens(torch.tensor(3)).tolist(), list(model.prompts.titles[3]), model.prompts.end
    assert token.tolist() == [*codes, end, *title, end, *title, end, *codes, end, *codes, end, *title, end]
    assert scores.shape == (len(token), model.num_text + 18)
    torch.testing.assert_close(Responses()(model, batch).total, F.cross_entropy(scores, token))

"""How long does a top-50 of a language model take? transformers' `generate` with a dict trie against LanguageModel + beam_search, with the
same weights, prompts and codes; both lists are compared, item by item.

    python benchmarks/language_model.py --out results/benchmarks/language_model.json

A random network of Qwen2's class (4 layers, width 256), 12,101 items of 4 x 256 codes, prompts over 10 history items, float32, one thread.
Runs interleave, figures are medians of the thread's CPU time. Both sides normalise over the children that exist. Must: 10 times faster.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from generate import LEVELS, SIZE, DictTrie, race

from semid.data.batch import history_batch
from semid.decoding.beam import beam_search
from semid.generators.backbone import Shape, new_backbone
from semid.generators.language_model import LanguageModel
from semid.generators.prompts import TASKS, Prompts
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


def with_our_tokens(model: LanguageModel):
    """The causal model of transformers that has the weights of ours, new tokens behind those of text."""
    import transformers

    config = model.network.config
    config.vocab_size = model.num_text + LEVELS * SIZE
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    weights = model.network.state_dict()
    assert model.embedding is not None
    weights["embed_tokens.weight"] = torch.cat([weights["embed_tokens.weight"], model.embedding.weight.detach()])
    theirs.base_model.load_state_dict(weights)
    return theirs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, nargs="+", default=[9, 3], help="one number for each of --users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    ids = SemanticIds(rng.integers(0, SIZE, (arguments.items, LEVELS)).astype(np.int32), (SIZE,) * LEVELS)
    backbone, tokenizer = new_backbone(Shape(width=256, heads=4, key_heads=2, feedforward=768, words=600),
                                       [task.instruction for task in TASKS], context=512)
    prompts = Prompts.of(TASKS, tokenizer, limit=512)
    ours = LanguageModel(backbone, ids, prompts, start=torch.randn(1, LEVELS * SIZE, 256) / 16).eval()
    first = ours.num_text + torch.arange(LEVELS) * SIZE
    tree, trie = CodeTree.build(ids), DictTrie(ids.codes + first.numpy())
    theirs = with_our_tokens(ours)

    def prompt_of(batch: Batch) -> torch.Tensor:
        spelled = (ids.codes[batch.item] + first.numpy()).tolist()
        return torch.tensor([prompts.prompt(0, items, LEVELS + 1) for items in spelled])

    def generate(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        tokens = prompt_of(batch)
        found = theirs.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), num_beams=arguments.top, max_new_tokens=LEVELS,
                                min_new_tokens=LEVELS, num_return_sequences=arguments.top, renormalize_logits=True, length_penalty=0.0,
                                prefix_allowed_tokens_fn=lambda _, prefix: trie.children[tuple(prefix[tokens.shape[1]:].tolist())],
                                do_sample=False, output_scores=True, return_dict_in_generate=True, pad_token_id=prompts.end)
        shape = (len(batch), arguments.top)
        return found.sequences[:, tokens.shape[1]:].view(*shape, LEVELS).numpy(), found.sequences_scores.view(shape).numpy()

    def search(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        found = beam_search(ours, batch, tree, beams=arguments.top, normalise="children")
        return (found.codes + first).numpy(), found.logp.numpy()

    ways = {"transformers": generate, "prompt_alone": lambda batch: ours.start(batch), "semid": search}
    result = {"benchmark": "language_model", "command": "python benchmarks/language_model.py " + " ".join(argv or sys.argv[1:]),
              "machine": {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__},
              "items": arguments.items, "top": arguments.top, "seed": arguments.seed, "must": {"ratio": 10}, "users": {}}
    with torch.inference_mode():
        for users, rounds in zip(arguments.users, arguments.rounds, strict=True):
            batch = history_batch(list(rng.integers(0, arguments.items, (users, 10))), max_history=10)
            result["users"][users] = race(ways, batch, rounds=rounds, top=arguments.top) | {"prompt_tokens": prompt_of(batch).shape[1]}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

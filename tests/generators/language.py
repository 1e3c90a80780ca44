"""Small random language models of hub classes, saved to a folder with their tokenizer, for tests of what is built on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from semid.generators.backbone import Backbone, read_backbone
from semid.generators.language_model import LanguageModel, initial_rows, title_codes
from semid.generators.prompts import NEXT_TITLE, TASKS, Prompts, title_tokens
from semid.types import SemanticIds

ITEMS = 30
TITLES = [f"{colour} {thing} {size}" for colour in ("red", "green", "blue") for thing in ("nail", "cream", "soap", "brush", "oil")
          for size in ("small", "large")]
SIZES = (4, 5, 6)


def save_model(folder: Path, *, family: str = "qwen2", is_tied: bool = True, generation: dict | None = None, **changes) -> Path:
    """A two-layer model of width 16 and a byte-pair tokenizer. generation: what the folder says of decoding; changes: to its config."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = TITLES + [task.instruction for task in TASKS] * 5
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, special_tokens=["<end>"], show_progress=False,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    shape = {"vocab_size": len(fast) + 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": 512, "tie_word_embeddings": is_tied, "initializer_range": 0.25}
    if family == "gpt2":
        config = transformers.GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    else:
        kind = {"qwen2": transformers.Qwen2Config, "llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}[family]
        config = kind(**shape, num_key_value_heads=1, intermediate_size=32, **changes)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def some_ids() -> SemanticIds:
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
    return SemanticIds(np.random.default_rng(0).permutation(every)[:ITEMS].astype(np.int16), SIZES)


def language_model(folder: Path, *, writes: str = "codes", limit: int = 300, is_uneven: bool = False) -> LanguageModel:
    """A generator over the saved model, of codes with tokens of their own, or of titles. is_uneven: titles of one to three tokens."""
    backbone, tokenizer = read_backbone(str(folder))
    titles = title_tokens(tokenizer, TITLES, 20)
    if is_uneven:
        titles = [title[: 1 + row % 3] for row, title in enumerate(titles)]
    if writes == "titles":
        prompts = Prompts.of(NEXT_TITLE, tokenizer, limit=limit)
        ids, alphabet = title_codes(titles, prompts.end, "titles")
        return LanguageModel(backbone, ids, prompts, alphabet=torch.from_numpy(alphabet)).eval()
    return with_codes(backbone, tokenizer, titles, limit).eval()


def with_codes(backbone: Backbone, tokenizer, titles: list[list[int]], limit: int) -> LanguageModel:
    vectors = [backbone.text_vectors] if backbone.head is None else [backbone.text_vectors, backbone.head]
    start = torch.stack([initial_rows(each, titles, some_ids()) for each in vectors])
    return LanguageModel(backbone, some_ids(), Prompts.of(TASKS, tokenizer, limit=limit, titles=titles), start=start)

"""The network of a causal language model: of the hub, of a folder, new, or as a run folder keeps it.

Only the network and its output vectors are taken. What a model folder says of generation (top_k, temperature, penalties) stays behind,
since semid decodes by itself.
Axes: W text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from semid.errors import ConfigError, MissingExtra
from semid.nn.pretrained import pretrained

WHAT = "language model"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that attend to the last tokens alone: the setting that says how many."""
FAMILIES = "choose a family such as Qwen or Llama"


@dataclass(frozen=True)
class Shape:
    """A new model of Qwen2's class, where none is named. key_heads: heads of keys and values; words: tokens of its byte-pair tokenizer,
    learnt from the catalogue's titles."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    key_heads: int = 2
    feedforward: int = 384
    words: int = 2048


@dataclass(frozen=True)
class LoRA:
    """Low-rank changes of every linear layer (Hu et al., arXiv 2106.09685), scaled by alpha / rank."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True)
class Backbone:
    """network: tokens or vectors to states [B, T, D], an `nn.Module` of transformers; head: float [W, D], output vectors, None = those
    of the embeddings; about: its config, plain values for JSON."""

    network: Any
    head: nn.Parameter | None
    about: dict

    @property
    def text_vectors(self) -> Tensor:
        """float [W, D], input embeddings of the text tokens."""
        return self.network.get_input_embeddings().weight

    @property
    def context(self) -> int:
        """Tokens that the network was built for and that each of its layers attends to at once: decoding here knows no windows."""
        config = self.network.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or WINDOWS
        windows = [getattr(config, setting, None) for kind, setting in WINDOWS.items() if kind in kinds]
        return min([config.max_position_embeddings, *(window for window in windows if window)])


def read_backbone(name: str, dtype: Literal["float32", "bfloat16"] = "float32") -> tuple[Backbone, Any]:
    """Return a causal model of the hub or a folder, and its tokenizer. Raises `ConfigError` where it cannot be loaded or used."""

    def load(transformers, name):
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[dtype], attn_implementation="sdpa")
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            raise ConfigError(f"language model: want a family that transformers runs with scaled dot product attention, {name} is of one "
                              f"that it doesn't; {FAMILIES}") from error
        return model, transformers.AutoTokenizer.from_pretrained(name)

    model, tokenizer = pretrained(load, name, what=WHAT, extra="llm",
                                  other=", or take a new network (tuning.model=new), as the variant small does")
    return taken_apart(model), tokenizer


def new_backbone(shape: Shape, texts: Sequence[str], *, context: int) -> tuple[Backbone, Any]:
    """Return a random model and a byte-pair tokenizer learnt from `texts`; weights come from torch's generator.

    Their deviation is D**-.5, not Qwen's .02, which is for wide models: a narrow one would hardly attend to anything for hundreds of steps.
    """
    tokenizer = _new_tokenizer(texts, shape.words)

    def build(transformers, name):
        config = transformers.Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads, intermediate_size=shape.feedforward, max_position_embeddings=context,
            tie_word_embeddings=True, initializer_range=shape.width**-0.5, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")

    return taken_apart(pretrained(build, "new", what=WHAT, extra="llm")), tokenizer


def empty_backbone(about: dict, *, is_tied: bool, dtype: Literal["float32", "bfloat16"] = "float32") -> Backbone:
    """Return a backbone of the config `about`, for weights of a run folder to be loaded into."""

    def build(transformers, name):
        config = transformers.AutoConfig.for_model(**about)
        # not `.to(dtype)`, which would round the frequencies of rotary positions too
        return transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")

    built = taken_apart(pretrained(build, about["model_type"], what=WHAT, extra="llm"))
    assert is_tied == (built.head is None), "the config says whether output vectors are tied"
    return built


def taken_apart(model: Any) -> Backbone:
    """Return the network and the head of a causal model of transformers."""
    head, vectors = model.get_output_embeddings(), model.get_input_embeddings().weight
    if head.bias is not None:
        raise ConfigError(f"language model: want output vectors without a bias, got {type(model).__name__}, which has one; {FAMILIES}")
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if other := set(kinds) - {"full_attention", *WINDOWS}:
        raise ConfigError(f"language model: want attention to tokens in every layer, got {type(model).__name__} with layers of "
                          f"{', '.join(sorted(other))}; {FAMILIES}")
    return Backbone(model.base_model, None if head.weight is vectors else head.weight, model.config.to_dict())


def add_adapters(network: Any, lora: LoRA) -> None:
    """Freeze the network and put low-rank adapters, which train, beside each of its linear layers. In place.

    Adapters are float32 whatever the network is: bfloat16 would lose most steps of training to rounding.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("language model: LoRA needs peft, which is not installed; pip install 'semid[llm]', "
                           "or train all weights") from error
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    peft.inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _new_tokenizer(texts: Sequence[str], words: int) -> Any:
    def learn(transformers, name):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=["<|endoftext|>"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(texts, trainer)
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")

    return pretrained(learn, "new", what=WHAT, extra="llm")

"""A BERT encoder in plain torch, with the weights and the word pieces of a folder in Hugging Face's layout.

It computes what transformers' BertModel does, and is there in a quarter of a second, where importing that takes several: the first
new item of a server or a command waits for it.

Source: Devlin et al., arXiv 1810.04805; pieces by the `tokenizers` library.

Axes: B rows, T tokens, D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from semid.errors import MissingExtra

PARTS = ("weight", "bias")


class Bert(nn.Module):
    """The encoder of a folder for which `reads` is true, in evaluation mode."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: str = "cpu"):
        super().__init__()
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra("text encoder: tokenizers is not installed; pip install 'semid[text]', or use the Hashed encoder, "
                               "which needs no weights") from error
        from safetensors.torch import load_file

        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.pieces = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.pieces.no_padding()
        weights = load_file(folder / "model.safetensors")
        self.word, self.position, self.kind = (nn.Embedding.from_pretrained(weights[f"embeddings.{name}_embeddings.weight"])
                                               for name in ("word", "position", "token_type"))
        self.longest, self.width = self.position.weight.shape
        with torch.device("meta"):  # no weights are drawn: all of them are in the file
            self.norm = nn.LayerNorm(self.width, eps=about["layer_norm_eps"])
            layer = nn.TransformerEncoderLayer(self.width, about["num_attention_heads"], about["intermediate_size"], dropout=0.0,
                                               activation="gelu", layer_norm_eps=about["layer_norm_eps"], batch_first=True)
            self.layers = nn.TransformerEncoder(layer, about["num_hidden_layers"], enable_nested_tensor=False)
        self.norm.load_state_dict({part: weights[f"embeddings.LayerNorm.{part}"] for part in PARTS}, assign=True)
        for number, one in enumerate(self.layers.layers):
            one.load_state_dict(_layer(weights, f"encoder.layer.{number}"), assign=True)
        self.to(device=device, dtype=dtype).eval().requires_grad_(False)

    @staticmethod
    def reads(folder: Path) -> bool:
        """Whether a folder holds a plain BERT: absolute positions, exact gelu, weights of the bare encoder."""
        files = [folder / name for name in ("config.json", "tokenizer.json", "model.safetensors")]
        if not all(file.is_file() for file in files):
            return False
        from safetensors import safe_open

        about = json.loads(files[0].read_text(encoding="utf-8"))
        plain = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
        with safe_open(files[2], "pt") as weights:
            return (all(about.get(name, wanted) == wanted for name, wanted in plain.items()) and "model_type" in about
                    and "embeddings.word_embeddings.weight" in weights.keys())  # noqa: SIM118 (it is no dict)

    def tokenize(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        """Return the word pieces of each text, at most `max_tokens`."""
        self.pieces.enable_truncation(min(max_tokens, self.longest))
        return [encoding.ids for encoding in self.pieces.encode_batch(texts)]

    def states(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return the last layer's states [B, T, D] and which of them are no padding, bool [B, T]."""
        piece = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=-1)  # [B, T]
        piece = piece.to(self.word.weight.device)
        real = piece >= 0
        place = torch.arange(piece.shape[1], device=piece.device)
        x = self.norm(self.word(piece.clamp_min(0)) + self.kind.weight[0] + self.position(place))                   # [B, T, D]
        return self.layers(x, src_key_padding_mask=~real), real


def _layer(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return a layer's weights under torch's names, which keep query, key and value in one matrix."""
    names = {"self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm", "linear1": "intermediate.dense",
             "linear2": "output.dense", "norm2": "output.LayerNorm"}
    found = {f"{ours}.{part}": weights[f"{name}.{theirs}.{part}"] for ours, theirs in names.items() for part in PARTS}
    return found | {f"self_attn.in_proj_{part}": torch.cat([weights[f"{name}.attention.self.{one}.{part}"]
                                                           for one in ("query", "key", "value")]) for part in PARTS}

"""One file that holds everything a training run needs to go on: safetensors, no code, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from semid.errors import RunError
from semid.files import write_atomically


@dataclass
class Checkpoint:
    """The state of a run outside model and optimizer. best: the state dict of the best look so far, empty before the first."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_step: int = 0
    best_value: float = float("-inf")
    stopped: bool = False
    history: list[dict] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Checkpoint) -> None:
    """Write weights, optimizer moments, random state and progress into one safetensors file."""
    from safetensors.torch import save_file

    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in state.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if (device := _cuda(model)) is not None:
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    progress = {k: v for k, v in state.__dict__.items() if k != "best"}
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {"progress": json.dumps(progress)}))


def time_spent(path: Path) -> tuple[float, float]:
    """Return (seconds, processor seconds) of the training that a checkpoint goes on with; zeros for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
    except (OSError, SafetensorError, KeyError, TypeError):
        return 0.0, 0.0
    return progress["seconds"], progress["cpu_seconds"]


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Restore what `save_checkpoint` wrote, random state included. Raises `RunError` if the file doesn't fit the model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a checkpoint of semid ({error}); delete it to train from the start") from None
    part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        model.load_state_dict(part("model/"))
    except RuntimeError as error:
        raise RunError(f"{path}: the checkpoint belongs to another model or configuration; resume with the same settings "
                       f"and number of threads, or delete it to train from the start ({str(error).splitlines()[0]})") from None
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer/").items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and (device := _cuda(model)) is not None:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)
    return Checkpoint(**progress, best=part("best/"))


def _cuda(model: nn.Module) -> torch.device | None:
    """The GPU that the model trains on, whose random state is part of its training."""
    device = next(model.parameters()).device
    return device if device.type == "cuda" else None

"""The one training loop: scorers, tokenizers' networks, generators and post-training all run here.

A run is a pure function of its seed: batches depend on the step alone, dropout on torch's generator, and both are in the
checkpoint. So a killed run that resumes ends with the same bits on CPU as one that was left alone.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.utils.deterministic as deterministic
from torch import Tensor, nn

from semid.errors import ConfigError
from semid.nn.precision import Precision, autocast
from semid.protocols import Batches, Objective
from semid.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from semid.training.log import Log


@dataclass(frozen=True)
class Optimization:
    """How weights move. learning_rate is the peak; the schedule scales it after `warmup` linear steps.

    schedule: cosine or linear down to `final` times the peak at the last step; inverse_sqrt (constant for `warmup` steps, then
    sqrt(warmup / step)); constant. clip: largest gradient norm. accumulate: batches averaged into one step.
    precision: of matrix products, see `nn.precision.autocast`; fp32 elsewhere. weight_decay: matrices only, never gains, biases.
    """

    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    warmup: int = 100
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"
    final: float = 0.05
    clip: float = 5.0
    accumulate: int = 1
    precision: Precision = "auto"

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a 0-based step of `steps`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        past = step / max(1, steps)
        fall = {
            "cosine": self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * past)),
            "linear": 1 - (1 - self.final) * past,
            "inverse_sqrt": math.sqrt(max(1, self.warmup) / max(step + 1, self.warmup, 1)),
            "constant": 1.0,
        }[self.schedule]
        return self.learning_rate * (1.0 if self.schedule == "inverse_sqrt" else rise) * fall


def pace(batches: Batches, *, epochs: int, least: int, look_every: int, patience: int) -> tuple[int, int, int]:
    """Return (steps, steps between looks at validation, looks without a better one before training ends).

    An epoch is a pass over the data, or `least` steps where a pass is less: a thousand orders are two batches, and twelve passes over them
    are 24 steps, after which nothing has been learnt. Looks come every `look_every` passes, or after half of `least` where that is later:
    another small log is learnt by heart within one epoch. patience: times `look_every` epochs.
    """
    epoch, every = max(batches.steps_per_epoch, least), max(look_every * batches.steps_per_epoch, least // 2)
    return epochs * epoch, every, max(1, patience * look_every * epoch // every)


@dataclass(frozen=True)
class Validation:
    """When to look, and what decides. measure() returns named numbers; `select` (higher is better) picks the kept weights, the last
    ones where there is nothing to measure on (no number).

    every: steps between looks; since: steps before which no look is the best. patience: looks without a better value before training
    stops; None = never.
    """

    measure: Callable[[], dict[str, float]]
    every: int
    select: str = "ndcg@10"
    patience: int | None = None
    since: int = 0


@dataclass
class Fitted:
    """What a training run did. best_step is the step whose weights the model now has; seconds include earlier parts of it."""

    steps: int
    best_step: int
    best_value: float
    seconds: float
    cpu_seconds: float
    history: list[dict] = field(default_factory=list)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by the user; a checkpoint is on disk."""


def fit(model: nn.Module, objective: Objective, batches: Batches, *, steps: int, optimization: Optimization = Optimization(),
        validation: Validation | None = None, checkpoint: Path | None = None, checkpoint_seconds: float = 60.0,
        resume: bool = False, log: Log | None = None, stage: str = "train") -> Fitted:
    """Train `model` in place; with validation, it ends with the weights of the best look.

    objective(model, batch) -> Loss. checkpoint: file that is replaced atomically every `checkpoint_seconds` and after each
    look, and removed by nobody. resume: go on from it if it is there. Raises `ConfigError` on a loss that is not finite.
    """
    log = log or Log()
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(_groups(model, optimization.weight_decay), lr=optimization.learning_rate,
                                  betas=(optimization.beta1, optimization.beta2), fused=True)
    state = Checkpoint()
    if resume:
        if checkpoint is not None and checkpoint.exists():
            state = load_checkpoint(checkpoint, model, optimizer)
        log.rewind(stage, state.step)
    began, cpu_began, saved = time.perf_counter(), time.process_time(), time.perf_counter()
    earlier, cpu_earlier = state.seconds, state.cpu_seconds
    window: list[Tensor] = []
    window_parts: dict[str, list[Tensor]] = {}
    window_signals: dict[str, list[Tensor]] = {}
    report_every = max(1, min(50, batches.steps_per_epoch))

    def save() -> None:
        nonlocal saved
        if checkpoint is not None:
            save_checkpoint(checkpoint, model, optimizer, state)
            saved = time.perf_counter()

    with _deterministic(device), _held_interrupt() as interrupt:
        model.train()
        while state.step < steps and not state.stopped:
            if interrupt.is_pending:
                save()
                raise Interrupted(f"{stage}: stopped at step {state.step:,} of {steps:,}")
            rate = optimization.rate(state.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            for micro in range(optimization.accumulate):
                batch = batches.at(state.step * optimization.accumulate + micro).to(device)
                with autocast(device, optimization.precision):
                    loss = objective(model, batch)
                (loss.total / optimization.accumulate).backward()
                window.append(loss.total.detach())
                for kept, said in ((window_parts, loss.parts), (window_signals, loss.signals)):
                    for name, value in said.items():
                        kept.setdefault(name, []).append(value.detach())
            norm = nn.utils.clip_grad_norm_(model.parameters(), optimization.clip)
            if not torch.isfinite(norm):
                raise ConfigError(f"{stage}: the loss or its gradient is not finite at step {state.step + 1} (loss "
                                  f"{window[-1].item():g}); try a lower learning rate or --set precision=fp32")
            optimizer.step()
            state.step += 1
            state.seconds = earlier + time.perf_counter() - began
            state.cpu_seconds = cpu_earlier + time.process_time() - cpu_began
            if state.step % report_every == 0 or state.step == steps:
                parts, signals = ({name: torch.stack(values).mean().item() for name, values in kept.items()}
                                  for kept in (window_parts, window_signals))
                epoch = state.step * optimization.accumulate / batches.steps_per_epoch
                log.write(stage, step=state.step, steps=steps, epoch=epoch, loss=torch.stack(window).mean().item(), parts=parts,
                          rate=rate, seconds=round(state.seconds, 1), **signals)
                window, window_parts, window_signals = [], {}, {}
            if validation is not None and (state.step % validation.every == 0 or state.step == steps):
                _look(model, validation, state, log, stage, steps)
                save()
            elif time.perf_counter() - saved >= checkpoint_seconds:
                save()
    if state.best:
        model.load_state_dict(state.best)
    model.eval()
    save()
    if interrupt.is_pending:
        raise Interrupted(f"{stage}: stopped after its last step")
    return Fitted(state.step, state.best_step or state.step, state.best_value, state.seconds, state.cpu_seconds, state.history)


def _look(model: nn.Module, validation: Validation, state: Checkpoint, log: Log, stage: str, steps: int) -> None:
    """Measure, remember the best weights, decide whether to stop."""
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        measured = validation.measure()
    model.train()
    if not measured:
        if state.step == steps:
            log.write(stage, note="no validation case: the last weights are kept")
        return
    if validation.select not in measured:
        raise ConfigError(f"validation: want the metric {validation.select!r} among {sorted(measured)}")
    value = measured[validation.select]
    state.history.append({"step": state.step, **measured})
    log.write(stage, step=state.step, steps=steps, valid=measured, seconds=round(state.seconds, 1))
    if value > state.best_value and state.step >= validation.since:
        state.best_value, state.best_step = value, state.step
        state.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    looks_since = sum(1 for look in state.history if look["step"] > max(state.best_step, validation.since - 1))
    state.stopped = validation.patience is not None and looks_since >= validation.patience


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}]


class _Interrupt:
    """Whether Ctrl-C was pressed, or SIGTERM came, and waits to be obeyed."""

    is_pending = False

    def press(self, signum: int, frame: object) -> None:
        if self.is_pending:
            raise KeyboardInterrupt
        self.is_pending = True
        os.write(2, b"\nstopping after this step; once more stops at once\n")  # print is not safe in a handler of signals


@contextmanager
def _held_interrupt():
    """Hold Ctrl-C and SIGTERM back until a step is whole: a checkpoint of half a step would not go on to the same bits. A second press
    goes through at once. Outside the main thread signals cannot be caught, and are left alone."""
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {each: signal.signal(each, interrupt.press) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _deterministic(device: torch.device):
    """On CPU, ask torch for algorithms that give the same bits each time; scatter-adds with threads otherwise don't."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory is a debugging aid that writes every buffer twice.
    fill = deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        deterministic.fill_uninitialized_memory = fill  # pyright: ignore[reportAttributeAccessIssue]

"""A training process that is killed at any moment goes on to the same bits.

Run as a script, this file is the process that gets killed: it imports torch once and forks a child a kill point, which sends
SIGKILL to itself there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import semid.files
import semid.training.fit as fit_module
from semid.training.fit import Interrupted, Optimization, Validation, fit
from semid.training.log import Log, read_records
from semid.types import Loss

STEPS = 24
POINTS = {
    "before a checkpoint": ["before"],
    "while a checkpoint is written": ["write"],
    "between writing and renaming": ["rename"],
    "after a checkpoint": ["after"],
    "while validation is measured": ["look"],
    "while a line of metrics.jsonl is written": ["line"],
    "while metrics.jsonl is rewound": ["after", "rewind"],
    "before the first checkpoint": ["first"],
    "four times": ["before", "write", "line", "after"],
}


class Rows:
    """Batches as a pure function of the step; a tensor [8, 4] knows `.to(device)`, which is all that `fit` asks."""

    steps_per_epoch = 5

    def at(self, step: int) -> Tensor:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def objective(model: nn.Module, rows: Tensor) -> Loss:
    error = (model(rows) - rows.flip(1)).square().mean()
    return Loss(error, {"error": error})


def train(folder: Path, *, resume: bool = False, objective=objective, measured=lambda: None) -> dict[str, Tensor]:
    """Dropout, warm-up, accumulation and early looks: everything that a checkpoint must remember."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 4))
    fixed = Rows().at(10_000)

    def measure() -> dict[str, float]:
        measured()
        return {"ndcg@10": -float((model(fixed) - fixed.flip(1)).square().mean())}

    fit(model, objective, Rows(), steps=STEPS, optimization=Optimization(accumulate=2, warmup=4, precision="fp32"),
        validation=Validation(measure, every=6), checkpoint=folder / "checkpoint.safetensors", checkpoint_seconds=0.0,
        resume=resume, log=Log(folder / "metrics.jsonl"))
    return model.state_dict()


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: Path, point: str, round_: int) -> None:
    """Train in this process and die at the named point, later in every round."""
    import safetensors.torch

    calls = 0

    def at_call(number: int) -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    save, write = fit_module.save_checkpoint, safetensors.torch.save_file
    third = 9 if round_ == 0 else 3
    if point == "first":
        fit_module.save_checkpoint = die
    if point == "before":
        fit_module.save_checkpoint = lambda *a: die() if at_call(third) else save(*a)
    if point == "after":
        fit_module.save_checkpoint = lambda *a: (save(*a), die() if at_call(third) else None)
    if point == "write":
        def half(tensors: dict, path: Path, *a: object) -> None:
            write(tensors, path, *a)
            if at_call(third):
                os.truncate(path, path.stat().st_size // 2)
                die()
        safetensors.torch.save_file = half
    if point == "rename":
        replace = os.replace
        semid.files.os.replace = lambda *a: die() if at_call(third) else replace(*a)
    if point == "rewind":
        semid.files.os.replace = die
    if point == "line":
        log = Log.write

        def half_a_line(self: Log, stage: str, **record: object) -> None:
            log(self, stage, **record)
            if at_call(3):
                assert self.path
                os.truncate(self.path, self.path.stat().st_size - 20)
                die()
        Log.write = half_a_line
    train(folder, resume=round_ > 0, measured=die if point == "look" else lambda: None)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a kill point, as the killed processes left it."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, __file__, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(folder), read_records(folder / "metrics.jsonl")


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_goes_on_to_the_same_bits(point: str, killed: Path, undisturbed: tuple):
    folder = killed / point
    weights, records = undisturbed
    resumed = train(folder, resume=True)
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
    timeless = lambda rows: [(r["step"], "valid" in r, r.get("valid")) for r in rows]
    assert timeless(read_records(folder / "metrics.jsonl")) == timeless(records)


def test_ctrl_c_waits_for_the_end_of_the_step_and_goes_on_to_the_same_bits(tmp_path: Path, undisturbed: tuple):
    calls = 0

    def press(model: nn.Module, rows: Tensor) -> Loss:
        nonlocal calls
        calls += 1
        if calls == 15:  # in the middle of an accumulated step
            os.kill(os.getpid(), signal.SIGINT)
        return objective(model, rows)

    with pytest.raises(Interrupted, match=r"stopped at step 8 of 24"):
        train(tmp_path, objective=press)
    resumed = train(tmp_path, resume=True)
    assert all(torch.equal(resumed[name], undisturbed[0][name]) for name in resumed)


def test_a_second_ctrl_c_goes_through_at_once(tmp_path: Path):
    def press_twice(model: nn.Module, rows: Tensor) -> Loss:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("unreachable")

    before = signal.getsignal(signal.SIGINT)  # of a shell's background process: ignored
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path, objective=press_twice)
    assert not isinstance(stopped.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_train_sasrec_killed_and_resumed_ends_with_the_same_file(toy: Path, tmp_path: Path):
    from semid.cli import main

    command = ["train", "sasrec", "--data", str(toy / "events.csv"), "--quiet", "--set", "epochs=8", "--set", "width=16",
               "--set", "tokens=128", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen([sys.executable, "-m", "semid", *command, "--out", str(tmp_path / "killed")], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / ".sasrec.checkpoint.safetensors"
    while not checkpoint.exists() and child.poll() is None:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert main(["evaluate", str(tmp_path / "killed")]) == 2
    assert main([*command, "--out", str(tmp_path / "killed"), "--resume"]) == 0
    assert (tmp_path / "killed" / "scorer.safetensors").read_bytes() == (tmp_path / "whole" / "scorer.safetensors").read_bytes()
    assert not checkpoint.exists()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))  # imports what torch imports on first use, once for all children
    for name, rounds in POINTS.items():
        out = Path(sys.argv[1]) / name
        out.mkdir()
        for round_, point in enumerate(rounds):
            child = os.fork()
            if child == 0:
                train_until_killed(out, point, round_)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if not os.WIFSIGNALED(status):
                sys.exit(f"{name}: the child was not killed at {point!r}")

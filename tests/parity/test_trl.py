"""DPO and GRPO losses equal TRL's own, fed with the same log-probabilities of tokens.

TRL's trainers want models, tokenizers and data sets; here only their loss functions run, on trainers that were never initialised.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from semid.objectives.policy import group_advantages, grpo_loss
from semid.objectives.preference import preference_loss

pytestmark = pytest.mark.slow  # TRL takes some seconds to import

ONE_PROCESS = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True,
                              device=torch.device("cpu"))


def uninitialised(kind: type, **values):
    trainer = kind.__new__(kind)
    log = {"train": defaultdict(list), "eval": defaultdict(list)}
    vars(trainer).update(values, accelerator=ONE_PROCESS, model=torch.nn.Linear(1, 1), aux_loss_enabled=False, _metrics=log)
    return trainer


@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_dpo_equals_trl_in_value_and_gradient(beta):
    from trl.trainer.dpo_trainer import DPOTrainer

    torch.manual_seed(0)
    logp, before = -torch.rand(8, 3) * 4, -torch.rand(8, 3) * 4  # 4 chosen, then 4 rejected; 3 codes
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    trainer = uninitialised(DPOTrainer, beta=beta, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
                            loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False, _total_train_tokens=0, _tp_size=1)
    zeros = torch.zeros(8, 3)
    model = lambda **_: SimpleNamespace(log_probs=theirs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    chosen, rejected = before.sum(1).chunk(2)
    wanted = trainer._compute_loss(model, {
        "input_ids": torch.zeros(8, 4, dtype=torch.int64), "attention_mask": torch.ones(8, 4, dtype=torch.int64),
        "completion_mask": torch.tensor([[0, 1, 1, 1]] * 8), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}, False)
    gain = (ours - before).sum(1)
    found = preference_loss(gain[:4], gain[4:, None], beta).mean()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("beta", [1e-3, 0.04])
def test_grpo_equals_trl_in_value_and_gradient(beta):
    from trl.trainer.grpo_trainer import GRPOTrainer

    torch.manual_seed(0)
    is_code = torch.ones(3, 4, 3, dtype=torch.bool)
    is_code[:, 1::2, 2] = False  # some items have two codes
    logp, reference = (-torch.rand(3, 4, 3) * 3 * is_code for _ in range(2))
    ours, theirs = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    advantage = group_advantages(torch.randn(3, 4))
    trainer = uninitialised(
        GRPOTrainer, beta=beta, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        loss_type="grpo", epsilon_low=0.2, epsilon_high=0.2, use_vllm=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (theirs.flatten(0, 1), torch.zeros(12, 3), None))
    zeros = torch.zeros(12, 3, dtype=torch.int64)
    wanted = trainer._compute_loss(None, {
        "prompt_ids": zeros, "prompt_mask": zeros + 1, "completion_ids": zeros, "completion_mask": is_code.flatten(0, 1).long(),
        "advantages": advantage.flatten(), "ref_per_token_logps": reference.flatten(0, 1)})
    found = grpo_loss(ours, reference, advantage, is_code, beta)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)

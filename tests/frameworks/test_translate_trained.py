"""Checkpoints of real trainings by Haiku and Lightning through the command; slow, and only with the extras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from bnstudy.batchnorm.layers import BatchNorm1d
from bnstudy.frameworks.translate import Options, groups_for, translate

pytestmark = pytest.mark.slow


def test_haiku_s_state_as_trained_is_what_torch_stores_fed_the_same_batches(tmp_path):
    haiku = pytest.importorskip("haiku", reason="needs the extra 'audit': dm-haiku")
    import jax

    batches = np.random.default_rng(0).normal(1, 2, (5, 8, 3)).astype(np.float32)
    network = haiku.transform_with_state(lambda x: haiku.BatchNorm(True, True, 0.9)(x, True))
    params, state = network.init(jax.random.key(0), batches[0])
    twin = nn.BatchNorm1d(3)
    for x in batches:
        _, state = network.apply(params, state, None, x)
        twin.train()(torch.from_numpy(x))
    arrays = {
        f"{module}/{name}": np.asarray(value)
        for tree in (params, state)
        for module, part in tree.items()
        for name, value in part.items()
    }
    save_file(arrays, tmp_path / "haiku.safetensors")
    options = Options("haiku", "torch", as_trained=True, batch_size=8, momentum=0.1)
    translate(tmp_path / "haiku.safetensors", tmp_path / "out.safetensors", options)
    found = load_file(tmp_path / "out.safetensors")["batch_norm/~/var_ema/average"].ravel()
    np.testing.assert_allclose(found, twin.running_var.numpy(), rtol=1e-5)
    assert np.abs(arrays["batch_norm/~/var_ema/average"].ravel() / found - 1).max() > 0.01  # the numbers alone are off


def test_lightning_s_checkpoint_is_translated_with_its_optimizer_and_scheduler(tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs the extra 'bench': lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4, convention="flax"), nn.Linear(4, 1))

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    trainer = lightning.Trainer(
        max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        default_root_dir=tmp_path / "run",
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(16, 3), batch_size=4))
    trainer.save_checkpoint(tmp_path / "in.ckpt")
    options = Options("flax", "karpathy", keep="training", batch_size=4, eps=1e-5)
    lines = translate(tmp_path / "in.ckpt", tmp_path / "out.ckpt", options)
    assert any("with it optimizer_states/0, lr_schedulers/0: each factor" in line for line in lines)
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("in.ckpt", "out.ckpt"))
    assert before.keys() == after.keys()
    s = (4 / 3) ** 0.5
    rates = [group["lr"] for group in after["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([1e-3, 1e-3 * s])
    assert after["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.1, 0.1 * s])
    torch.testing.assert_close(after["state_dict"]["net.1.weight"], before["state_dict"]["net.1.weight"] * s)
    model = Module()
    optimizer = torch.optim.AdamW(groups_for(after["optimizer_states"][0], model.named_parameters()))
    optimizer.load_state_dict(after["optimizer_states"][0])
    moments = optimizer.state[model.net[1].weight]["exp_avg"]
    torch.testing.assert_close(moments, before["optimizer_states"][0]["state"][2]["exp_avg"] / s)

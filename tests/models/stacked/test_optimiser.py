"""The optimiser of many folds against torch's, fold by fold."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.stacked.optimiser import FoldAdam, Moment
from models.stacked.stack import Stack

FOLDS, STEPS = 3, 12


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(FOLDS)]


def schedule() -> list[list[Moment | None]]:
    """Every fold its own rates and betas; the second sits out at times, the third stops early."""
    rng = np.random.default_rng(0)
    rows: list[list[Moment | None]] = []
    for step in range(STEPS):
        row: list[Moment | None] = [
            Moment(float(rng.uniform(1e-3, 1e-2)), float(rng.uniform(0.8, 0.95)), 0.99)
            for _ in range(FOLDS)
        ]
        row[1] = None if step % 3 == 1 else row[1]
        row[2] = None if step > 7 else row[2]
        rows.append(row)
    return rows


def run(decay: float, clip: float | None) -> None:
    plain, scale = networks(), {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 1.0, "1.bias": 1.0}
    net = Stack(networks(), torch.device("cpu"))
    scales, decays = (torch.zeros(1, net.flat.shape[1]) for _ in range(2))
    for name, (start, stop) in net.spans.items():
        scales[:, start:stop] = scale[name]
        decays[:, start:stop] = decay if name.endswith("weight") else 0.0
    ours = FoldAdam(net, scale=scales, decay=decays if decay else None, clip_norm=clip)
    theirs = []
    for network in plain:
        groups = [
            {"params": [p], "scale": scale[n], "weight_decay": decay if p.ndim > 1 else 0.0}
            for n, p in network.named_parameters()
        ]
        theirs.append(torch.optim.AdamW(groups, lr=0.0))
    plan = schedule()
    half = STEPS // 2
    torch.manual_seed(1)
    for step in range(STEPS):
        if step % half == 0:
            ours.plan(plan[step : step + half])  # an epoch's table; steps count on
        for name in net:
            net.parameters[name].grad = torch.randn_like(net.parameters[name])
        for fold, (network, optimiser) in enumerate(zip(plain, theirs, strict=True)):
            moment = plan[step][fold]
            if moment is None:
                continue
            for name, parameter in network.named_parameters():
                parameter.grad = net.parameters[name].grad[fold].clone()
            if clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            for group in optimiser.param_groups:
                group["lr"] = moment.rate * group["scale"]
                group["betas"] = (moment.beta1, moment.beta2)
            optimiser.step()
        net.gradients(ours.gradient)
        ours.step(step % half)
    for fold, network in enumerate(plain):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(net.state_of(fold)[name], tensor, atol=1e-6, rtol=1e-5)
    numbers = {name: number for number, name in enumerate(net)}
    saved = ours.state_of(1, numbers)
    moments = theirs[1].state_dict()["state"]
    for number, kept in moments.items():
        for key, value in kept.items():
            got = saved[f"optimiser.{number}.{key}"]
            torch.testing.assert_close(got, value, atol=1e-6, rtol=1e-5)


def test_adam_of_each_fold() -> None:
    run(decay=0.0, clip=None)


def test_adamw_with_decay_scales_and_a_norm_limit_of_each_fold() -> None:
    run(decay=0.3, clip=1.0)


def test_gradients_are_moved_or_gathered_and_absent_ones_are_zero() -> None:
    net = Stack(networks(), torch.device("cpu"))
    into = torch.full_like(net.flat, 7.0)
    net.parameters["0.bias"].grad = torch.ones(FOLDS, 5)
    net.gradients(into)
    assert net.slot(into, "0.bias").eq(1).all() and into.sum() == 5 * FOLDS
    assert net.parameters["0.bias"].grad is None
    net.parameters["0.bias"].grad = torch.ones(FOLDS, 5)
    net.gradients(into, add=True)
    assert net.slot(into, "0.bias").eq(2).all() and net.slot(into, "1.weight").eq(0).all()

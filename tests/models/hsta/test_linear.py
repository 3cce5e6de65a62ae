"""The oneDNN linear map equals torch's own in values and gradients, and steps aside elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.layers import linear as module
from models.layers.linear import Linear, linear


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (2, 1, 5)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_equal_torchs(shape, with_bias):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    bias = torch.randn(4, requires_grad=True) if with_bias else None
    inputs = [x, weight] + ([bias] if with_bias else [])
    ours, truth = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(ours, truth)
    ours_grads = torch.autograd.grad(ours.sin().sum(), inputs)
    truth_grads = torch.autograd.grad(truth.sin().sum(), inputs)
    torch.testing.assert_close(ours_grads, truth_grads)


def test_strided_inputs_and_frozen_parts():
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5).transpose(1, 2)[:, 1:]  # (3, 4, 8), not contiguous
    weight = torch.randn(6, 8, requires_grad=True)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    (grad,) = torch.autograd.grad(linear(x, weight).square().sum(), weight)
    (truth,) = torch.autograd.grad(F.linear(x, weight).square().sum(), weight)
    torch.testing.assert_close(grad, truth)


def test_it_steps_aside(monkeypatch):
    layer = Linear(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(2, 5, dtype=torch.float64)).dtype == torch.float64
    with torch.device("meta"):
        assert Linear(5, 4)(torch.zeros(2, 5)).shape == (2, 4)
    monkeypatch.setattr(module, "_operator", lambda: None)
    plain = Linear(5, 4)
    x = torch.randn(2, 5)
    assert torch.equal(plain(x), F.linear(x, plain.weight, plain.bias))
    assert linear(torch.zeros(0, 5), plain.weight).shape == (0, 4)

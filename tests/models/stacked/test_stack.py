"""Stacked layers against two oracles: the plain networks one by one, and torch.vmap over them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from data.errors import InputError
from models.hsta.network import HSTA, HstaConfig, create
from models.hsta.stacked import forward as hsta_forward
from models.layers import linear as onednn
from models.layers.dropout import FoldDraws
from models.layers.stochastic_depth import DepthMasks, set_masks
from models.me_tst.network import MeTst, MeTstConfig
from models.me_tst.plus import MeTstPlus, MeTstPlusConfig
from models.me_tst.stacked import biases_without_gradient, drop_rates, forward
from models.stacked.stack import Stack
from tests.fakes.folds import DROPPING, ME_TST

CPU = torch.device("cpu")
COUNTS, ROWS = [6, 4, 5], 6


def trio(make: Callable[[], nn.Module]) -> list[nn.Module]:
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = make()
        for parameter in network.parameters():  # so that no norm or bias is 0 or 1
            with torch.no_grad():
                parameter += 0.02 * torch.randn_like(parameter)
        networks.append(network.train())
    return networks


def padded(net: Stack) -> Tensor:
    """Marks COUNTS real samples of ROWS rows, and tells the stack."""
    real = torch.tensor([[1.0] * n + [0.0] * (ROWS - n) for n in COUNTS])
    net.step(COUNTS, real)
    return real


@pytest.mark.parametrize("kind", list(ME_TST))
def test_me_tst_stacked_is_each_network_alone(kind: str) -> None:
    """Unequal folds, stochastic depth; the plain networks draw from torch's own generator."""
    networks = trio(ME_TST[kind])
    noise = biases_without_gradient(networks[0])
    motion = torch.randn(3, ROWS, 10, 20)
    net = Stack(networks, CPU)
    masks = DepthMasks(drop_rates(networks[0]), CPU)
    masks.draw([[n] for n in COUNTS], [torch.Generator().manual_seed(7 + f) for f in range(3)])
    masks.start(0)
    real = padded(net)
    spot, logits = forward(net, motion, masks)
    loss = spot.square().sum(2) + logits.square().sum((2, 3))
    (loss * real).sum().backward()
    for f, network in enumerate(networks):
        torch.manual_seed(7 + f)
        own_spot, own_logits = network(motion[f, : COUNTS[f], None])
        (own_spot.square().sum() + own_logits.square().sum()).backward()
        torch.testing.assert_close(spot[f, : COUNTS[f]], own_spot, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[f, : COUNTS[f]], own_logits, atol=1e-5, rtol=1e-5)
        for name, parameter in network.named_parameters():
            if name not in noise:
                scale = float(parameter.grad.abs().max()) + 1e-3
                got = net.parameters[name].grad[f]
                torch.testing.assert_close(got, parameter.grad, atol=1e-3 * scale, rtol=1e-3)
        state = net.state_of(f)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5)
    spot, _ = forward(net.train(False), motion)
    with torch.no_grad():
        torch.testing.assert_close(spot[1], networks[1].eval()(motion[1, :, None])[0])


@pytest.mark.parametrize("depth", [(1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("head_mode", [1, 2, 4])
def test_hsta_stacked_is_each_network_alone(head_mode: int, depth: tuple[int, int, int]) -> None:
    config = DROPPING.model_copy(update={"head_mode": head_mode, "depth": depth})
    networks = trio(lambda: create(config))
    clip = torch.randn(3, ROWS, 3, 4, 16, 16)
    net = Stack(networks, CPU)
    draws = FoldDraws([torch.Generator().manual_seed(7 + f) for f in range(3)])
    draws.start(COUNTS)
    real = padded(net)
    logits = hsta_forward(net, clip, draws)
    (logits.square().sum(2) * real).sum().backward()
    for f, network in enumerate(networks):
        torch.manual_seed(7 + f)
        own = network(clip[f, : COUNTS[f]])
        own.square().sum().backward()
        torch.testing.assert_close(logits[f, : COUNTS[f]], own, atol=1e-5, rtol=1e-5)
        for name, parameter in network.named_parameters():
            if not name.endswith("key.bias"):
                got = net.parameters[name].grad[f]
                torch.testing.assert_close(got, parameter.grad, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        got = hsta_forward(net.train(False), clip)
        torch.testing.assert_close(got[2], networks[2].eval()(clip[2]), atol=1e-5, rtol=1e-5)


VMAPPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "me_tst": (
        lambda: MeTst(MeTstConfig(dim=8, blocks=2, d_state=4, drop_path=0, scan="reference")),
        (1, 10, 12),
    ),
    "me_tst_plus": (
        lambda: MeTstPlus(
            MeTstPlusConfig(
                in_channels=10, dim=8, blocks=1, d_state=4, drop_path=0, scan="reference"
            )
        ),
        (1, 10, 12),
    ),
    "hsta": (
        lambda: HSTA(DROPPING.model_copy(update={"dropout": 0.0, "drop_path": 0.0})),
        (3, 4, 16, 16),
    ),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", list(VMAPPED))
def test_stacked_is_vmap_of_the_plain_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_operator", lambda: None)  # it has no batching rule
    make, shape = VMAPPED[kind]
    networks = trio(make)
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Module) and type(module).__name__ == "Dropout":
                module.rate = 0.0
    template = copy.deepcopy(networks[0]).to("meta")
    x = torch.randn(3, 5, *shape)

    def outputs(parameters: dict, buffers: dict, one: Tensor) -> tuple[Tensor, ...]:
        found = functional_call(template, (parameters, buffers), (one,))
        return found if isinstance(found, tuple) else (found,)

    def loss(parameters: dict, buffers: dict, one: Tensor) -> Tensor:
        return sum(out.square().sum() for out in outputs(parameters, buffers, one))

    parameters, buffers = stack_module_state(networks)
    want = vmap(outputs)(parameters, {n: b.clone() for n, b in buffers.items()}, x)
    slopes = vmap(grad(loss))(parameters, {n: b.clone() for n, b in buffers.items()}, x)
    net = Stack(networks, CPU)
    net.step([5, 5, 5], torch.ones(3, 5))
    if kind == "hsta":
        draws = FoldDraws([torch.Generator()] * 3)
        draws.start([5, 5, 5])
        got = (hsta_forward(net, x, draws),)
    else:
        got = forward(net, x[:, :, 0])
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    sum(out.square().sum() for out in got).backward()
    quiet = ("key.bias", *biases_without_gradient(networks[0]))
    for name, slope in ((n, s.detach()) for n, s in slopes.items()):
        if not name.endswith(quiet):
            ours = net.parameters[name].grad
            torch.testing.assert_close(
                ours, slope, atol=1e-5 * (1 + float(slope.abs().max())), rtol=1e-3
            )


def test_masks_are_the_folds_own_and_refuse_another_network() -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    masks = DepthMasks([0.0, 0.5, 0.2], CPU)
    masks.draw([[4, 2], [3]], [generator(0), generator(1)])
    masks.start(0)
    beside = masks.next(0.5, 4)[1, :3]
    alone = DepthMasks([0.5, 0.2], CPU)
    alone.draw([[3]], [generator(1)])
    alone.start(0)
    assert torch.equal(alone.next(0.5, 3)[0], beside)
    with pytest.raises(InputError, match="rate"):
        masks.next(0.3, 4)
    network = ME_TST["me_tst"]().train()
    other = DepthMasks([0.9], CPU)
    other.draw([[2]], [generator(0)])
    other.start(0)
    set_masks(network, other)
    with pytest.raises(InputError, match=r"0\.9"):
        network(torch.randn(2, 1, 10, 20))


def test_networks_of_several_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        Stack(
            [create(DROPPING), create(HstaConfig(**{**DROPPING.model_dump(), "num_groups": 2}))],
            CPU,
        )

"""What training with each recipe takes of a GPU, counted: the figures of `python -m flows recipes`.

    python -m tests.benchmarks.recipe_costs [NAME …]      prints CSV; all recipes by default

The column `source` of flows/recipes/costs.csv, where settings are from, is written by hand.

No GPU is needed and none is measured. One training step of two samples runs on the CPU; counted are
its operations (torch's FLOP counter), its launches (operations dispatched) and the bytes kept for
the backward pass, scaled to the recipe's batch. Memory: weights, gradients, Adam's two moments,
kept bytes. Hours: all folds, as many samples as the published datasets have, at SUSTAINED
operations a second or LAUNCH_S seconds a launch of all folds as one program, whichever is longer
(networks of a flow picture train fold after fold).
"""

from __future__ import annotations

import argparse
import csv
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from data.datasets import get_adapter
from models import create_model
from models.layers import linear as onednn
from models.recipe import Recipe, list_recipes, load_recipe

SUSTAINED = 40e12  # of a card with 400 TFLOP/s in bf16 on paper; a tenth is what small steps reach
LAUNCH_S = 8e-6
EVENTS = {"casme2": 255, "samm": 159, "smic": 164, "casme3": 860, "samm_lv": 159}
PICTURES = 442, 68  # clips and people of the published flow pictures
WINDOWS_AN_EVENT = 2.4  # 380 with an event of SAMM-LV's 159
HALF = 0.62  # bytes kept under bf16 over those under float32: 308 of 492 MB a clip


class Launches(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def step(recipe: Recipe, samples: int = 2) -> tuple[int, float, int, float]:
    """Parameters, operations a sample, launches a step, bytes kept a sample, of one step."""
    settings = recipe.model.model_dump(mode="json")
    onednn._onednn_fits = lambda x, weight: False  # products of its own are not counted
    network = create_model(settings.pop("name"), **settings).train()
    if "source" in settings:
        batch = torch.randn(samples, 3, settings["image_size"], settings["image_size"])
    elif recipe.network.samples == "events":
        size, frames = settings["image_size"], settings["num_frames"] + 2
        batch = torch.randn(samples, 3, frames, size, size)
    else:
        batch = torch.randn(samples, 1, settings["in_channels"], recipe.stage_config("motion").k)
    kept: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as operations:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = network(batch)
        loss = sum(o.float().square().mean() for o in (out if isinstance(out, tuple) else (out,)))
        loss.backward()
    with Launches() as launches:
        out = network(batch)
        loss = sum(o.float().square().mean() for o in (out if isinstance(out, tuple) else (out,)))
    parameters = sum(p.numel() for p in network.parameters())
    # backward launches about twice the forward's, the optimiser (fused) a few
    return (
        parameters,
        operations.get_total_flops() / samples,
        3 * launches.count,
        sum(kept.values()) / samples,
    )


def cost(name: str) -> dict[str, Any]:
    """The recipe's row."""
    recipe = load_recipe(name)
    train: Any = recipe.train
    parameters, operations, launches, kept = step(recipe)
    if recipe.data == ("csv",):
        events, people = PICTURES
    else:
        events = sum(EVENTS[d] for d in recipe.data)
        people = sum(get_adapter(d).reference["subjects"] for d in recipe.data)
    folds = recipe.split.k if recipe.split.kind == "subject_kfold" else people
    samples = float(events)
    if recipe.network.samples == "videos":
        samples = events * WINDOWS_AN_EVENT * (1 + train.negative_ratio)
    samples *= 1 - 1 / folds
    batch = samples if getattr(train, "solver", "") == "lbfgs" else train.batch_size
    steps = train.epochs * max(1.0, samples / batch)
    half = HALF if getattr(train, "precision", "fp32") == "auto" else 1.0
    memory = 16 * parameters + half * kept * batch
    seconds = max(
        folds * steps * batch * operations / SUSTAINED,
        steps * launches * LAUNCH_S * (folds if "source" in type(recipe.model).model_fields else 1),
    )
    return {
        "recipe": name,
        "parameters": _short(parameters),
        "gpu_gb": f"{memory / 1e9:.1f}" if memory < 1e10 else f"{memory / 1e9:.0f}",
        "gpu_hours": f"{seconds / 3600:.1g}" if seconds < 36000 else f"{seconds / 3600:.0f}",
    }


def _short(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or list_recipes()
    out = csv.DictWriter(sys.stdout, ["recipe", "parameters", "gpu_gb", "gpu_hours"])
    out.writeheader()
    for name in names:
        out.writerow(cost(name))
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The HSTA recipes that come with the project: they parse, say what they are, and fit the spec."""

from __future__ import annotations

import pytest
import torch

from models.family import family_of
from models.hsta.network import create
from models.recipe import list_recipes, load_recipe

RECIPES = [name for name in list_recipes() if name.startswith("hsta_")]
MAIN = [n for n in RECIPES if n.startswith(("hsta_casme", "hsta_samm", "hsta_smic", "hsta_megc"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_its_network_and_says_what_is_whose(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        create(recipe.model)
    family = family_of(recipe)
    assert recipe.network_name == "hsta" and family.recognises and recipe.expected
    assert all(word in recipe.about for word in ("Ours:", "Code:")), "names paper, code and ours"


@pytest.mark.parametrize("name", MAIN)
def test_main_setting_is_the_published_one(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = create(recipe.model.model_copy(update={"num_classes": 7}))
    assert sum(p.numel() for p in model.parameters()) == 81_887_623
    train = recipe.train
    assert (train.epochs, train.batch_size, train.base_lr) == (150, 32, 5e-4)
    assert (train.warmup_epochs, train.weight_decay, train.layer_decay) == (5, 0.05, 0.9)
    assert train.balanced and not train.input.augment and train.label_smoothing == 0
    assert recipe.split.kind != "published"  # the authors' folds share people; opt in by name


def test_every_setting_of_the_paper_has_a_recipe():
    expected = {
        ("casme3", "label_7"),
        ("casme3", "objective_class"),
        ("casme3", "label_4"),
        ("casme3", "label_3"),
        ("casme2", "label_3"),
        ("samm", "label_3"),
        ("smic", "label_3"),
        ("casme2+samm+smic", "label_3"),
    }
    assert expected <= {("+".join(r.data), r.labels) for r in map(load_recipe, MAIN)}
    specials = {load_recipe(n).model.special for n in MAIN}
    assert specials == {"frames", "flow"}

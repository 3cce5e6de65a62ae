"""A methods paragraph to paste, from the run's own settings and counts, with its references.

It says what was done and nothing else: every number is the run's. Citations are keys of
`references.bib`, of which the entries that are cited are given beside the paragraph.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.project import project_version
from models.report.data import apex_statement, protocol
from models.report.scores import label_word, test_samples

if TYPE_CHECKING:
    from models.runs.files import RunFiles

BIBLIOGRAPHY = Path(__file__).with_name("references.bib")
NAMES = {
    "casme2": "CASME II", "casme": "CASME", "casme3": "CAS(ME)³", "casme3_c": "CAS(ME)³ part C",
    "cas_me2": "CAS(ME)²", "samm": "SAMM", "samm_lv": "SAMM Long Videos", "smic": "SMIC",
    "smic_e": "SMIC-E long", "mmew": "MMEW", "4dme": "4DME", "dfme": "DFME",
    "csv": "recordings of our own", "hsta": "HSTA", "me_tst": "ME-TST", "me_tst_plus": "ME-TST+",
    "ststnet": "STSTNet", "flow_regression": "Logistic regression on the flow",
}  # fmt: skip
ALSO = {"casme3_c": "casme3", "smic_e": "smic"}  # described in another's paper
ALIGNED = {
    "track": "followed by tracked points and registered to the first usable frame",
    "landmarks": "registered frame by frame by their landmarks",
    "landmarks_smooth": "registered frame by frame by their landmarks, smoothed over time",
    "ecc": "registered to the first usable frame by their grey values",
    "first_crop": "cropped as in the first usable frame",
}
WITHOUT_FACES = {
    "none": "Of each frame the largest centred square was taken",
    "whole": "Frames were taken whole",
}


def methods(run: RunFiles) -> tuple[str, str]:
    """(the paragraph, BibTeX of what it cites)."""
    recipe = run.recipe
    text = " ".join(
        filter(
            None,
            [
                _data(run),
                _preprocessing(run),
                _network(run),
                f"{protocol(run)[0]}".strip(),
                _scoring(run),
                f"All was computed with apexflow {project_version()}, PyTorch [pytorch] and "
                "OpenCV [opencv].",
            ],
        )
    )
    if recipe.split.kind in ("published", "megc2019") and "megc2019" in str(recipe.split):
        text += " The composite is that of the challenge of 2019 [megc2019]."
    return text, bibtex(cited(text))


def cited(text: str) -> list[str]:
    """Keys in brackets, in the order of first use."""
    found = [key for group in re.findall(r"\[([a-z0-9_, ]+)\]", text) for key in group.split(", ")]
    return list(dict.fromkeys(found))


@cache
def entries() -> dict[str, str]:
    """Key → entry of the bibliography."""
    found = re.finditer(r"@\w+\{(\w+),.*?\n\}", BIBLIOGRAPHY.read_text(), re.S)
    return {match[1]: match[0].strip() for match in found}


def bibtex(keys: list[str]) -> str:
    """Entries of these keys; one that the bibliography lacks is a comment."""
    known = entries()
    return "\n".join(known.get(key, f"% {key}: not in the bibliography") for key in keys)


def _data(run: RunFiles) -> str:
    from models.runs.files import read_tables

    recipe, samples = run.recipe, test_samples(run)
    column = recipe.network.samples.removesuffix("s")
    parts = []
    for name in recipe.data:
        table = read_tables(run.workspace, (name,), f"{column}s")
        tested = table[(name + ":" + table[column]).isin(samples)]
        videos = read_tables(run.workspace, (name,), "videos")
        source = "synthetic videos in the layout of " if _synthetic(videos) else ""
        what = "clips" if column == "event" else "videos"
        key = ALSO.get(name, name)
        cite = f" [{key}]" if key in entries() else ""
        parts.append(
            f"{len(tested)} {what} of {tested.person.nunique()} people of {source}"
            f"{NAMES.get(name, name)}{cite}"
        )
    return f"We used {'; '.join(parts)}, with labels of {label_word(recipe.labels)}."


def _synthetic(videos: Any) -> bool:
    return "synthetic" in videos and bool(videos["synthetic"].fillna(False).all())


def _preprocessing(run: RunFiles) -> str:
    recipe, said = run.recipe, []
    stages = recipe.stages
    if "align" in stages:
        config = recipe.stage_config("align")
        if (mode := str(config.mode)) in WITHOUT_FACES:
            how = WITHOUT_FACES[mode]
        else:
            how = f"Faces were found [dlib, landmarks] and {ALIGNED[mode]}"
        said.append(f"{how}; crops have {config.size} px.")
    if "registration" in stages:
        said.append("The frames of each event were registered to its onset.")
    if "apex" in stages and (apex := apex_statement(run)):
        said.append(apex)
    if "flow" in stages:
        config = recipe.stage_config("flow")
        said.append(
            f"Optical flow is TV-L1 [tvl1, tvl1_ipol] at {config.size} px (preset "
            f"{config.preset}), with optical strain from its gradient."
        )
    if "motion" in stages:
        config = recipe.stage_config("motion")
        said.append(
            f"Motion of facial regions was taken in windows of {config.k} frames, every "
            f"{config.frame_skip}. frame, relative to the first frame of each window."
        )
    return " ".join(said)


def _network(run: RunFiles) -> str:
    recipe, train = run.recipe, run.recipe.train
    name = recipe.network_name
    cite = f" [{name}]" if name in entries() else ""
    if name.startswith("me_tst"):
        cite = f" [{name}, mamba]"
    facts = {
        "epochs": "{} epochs", "batch_size": "batches of {}", "max_lr": "peak learning rate {:g}",
        "lr": "learning rate {:g}", "base_lr": "learning rate {:g} per 256 clips",
        "weight_decay": "weight decay {:g}",
    }  # fmt: skip
    last = "epoch"
    if getattr(train, "solver", "") == "lbfgs":
        facts["epochs"], last = "at most {} iterations of L-BFGS on all samples", "iteration"
    told = [
        words.format(getattr(train, key))
        for key, words in facts.items()
        if hasattr(train, key) and key not in train.unread()
    ]
    seeds = recipe.each_seed
    told.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    return (
        f"{NAMES.get(name, name)}{cite} was trained for {', '.join(told)}; "
        f"the weights after the last {last} were tested."
    )


def _scoring(run: RunFiles) -> str:
    if run.recipe.network.samples == "events":
        return (
            "UF1 (mean F1 over classes) and UAR (mean recall over classes) were computed from all "
            "folds' predictions together; 95 % intervals are percentiles of a bootstrap over "
            "people."
        )
    decode = run.recipe.decode
    return (
        f"An interval counts as found at an overlap (IoU) of at least {decode.iou:g} under the "
        f"matcher “{decode.matcher}”; counts of all videos were pooled before F1, STRS is spotting "
        "F1 times the F1 of the class on what was spotted, and 95 % intervals are percentiles of a "
        "bootstrap over people."
    )

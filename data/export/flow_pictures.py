"""Flow of onset→apex as pictures in STSTNet's and HTNet's layout, leave one subject out laid out.

    OUT/SUBJECT/u_test/CLASS/SUBJECT_CLIP.png      the subject's own
    OUT/SUBJECT/u_train/CLASS/OTHER_CLIP.png       everybody else's
    OUT/samples.csv                                a line a picture

CLASS is 0 negative, 1 positive, 2 surprise for label_3 (as MEGC 2019 numbers them), else the
class's own word. The frames in samples.csv are those that the flow is of. Red, green and blue are
u, v and strain, each stretched from its smallest to its largest value to 0 … 255, as theirs are:
pixels are lost, the sign of u and v is where 0 fell.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from data.errors import InputError
from data.export.names import safe_name, unique_names, write_csv
from data.export.reading import OpenStores
from data.export.samples import Sample, free_folder, labelled, with_flow
from data.pictures.drawing import png_bytes
from data.stages.workspace import Workspace

NUMBERS = {"negative": "0", "positive": "1", "surprise": "2"}
COLUMNS = ("file", "dataset", "event", "subject", "person", "label", "onset", "apex")


def export_flow_pictures(
    workspace: Workspace,
    datasets: Sequence[str],
    out: Path,
    *,
    label: str = "label_3",
    size: int = 28,
) -> int:
    """Write the folders of all subjects of all datasets; returns how many different pictures.

    Raises StoreError `no_data` without flow or label, ConfigError for a folder with files in it.
    """
    if not 8 <= size <= 512:
        raise InputError("picture size", expected="8 to 512 px", got=str(size))
    free_folder(out)
    samples = labelled(workspace, datasets, label)
    classes = class_folders({sample.label for sample in samples})
    made: list[tuple[Sample, Path, tuple[int, int]]] = []
    with OpenStores(workspace) as stores:
        for sample, field, pair in with_flow(stores, samples):
            folder = out / sample.subject / "u_test" / classes[sample.label]
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{sample.name}.png"
            path.write_bytes(png_bytes(flow_picture(field, size)))
            made.append((sample, path, pair))
    for subject, person in dict.fromkeys((s.subject, s.person) for s, _, _ in made):
        for sample, path, _ in made:
            if sample.person != person:  # one person may have several subject names
                folder = out / subject / "u_train" / classes[sample.label]
                folder.mkdir(parents=True, exist_ok=True)
                _link(path, folder / path.name)
    rows = [
        (p.relative_to(out), s.dataset, s.event, s.subject, s.person, s.label, *pair)
        for s, p, pair in made
    ]
    write_csv(out / "samples.csv", COLUMNS, rows)
    return len(made)


def class_folders(labels: Iterable[str]) -> dict[str, str]:
    """Class → the name of its folder, which leads nowhere else."""
    return unique_names({label: NUMBERS.get(label) or safe_name(label) for label in labels})


def flow_picture(field: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.uint8]:
    """(S, S, 3) RGB of a field (H, W, 3): each channel stretched to 0 … 255, 0 where it is flat."""
    shrinks = min(field.shape[:2]) >= size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(field, (size, size), interpolation=how), np.float64)
    low, high = small.min(axis=(0, 1)), small.max(axis=(0, 1))
    span = np.where(high > low, high - low, 1.0)
    return np.rint((small - low) / span * 255).astype(np.uint8)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

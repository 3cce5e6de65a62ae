"""A folder of flow pictures, as STSTNet and HTNet ship theirs, made a dataset of layout csv.

Read are two layouts, at any depth below the folder given:

    SUBJECT/u_test/CLASS/CLIP.png  SUBJECT/u_train/CLASS/CLIP.png      leave one subject out, laid
                                   out: each subject's own pictures are in u_test
    SUBJECT/CLASS/CLIP.png         one's own

CLASS is 0, 1, 2 (negative, positive, surprise, as MEGC2019 numbers them) or a word; the picture's
red, green and blue are u, v and strain. Of the first layout only u_test is taken: the project makes
its own folds. That u_train never holds the subject's own pictures is checked all the same.

Written are OUT/pictures/SUBJECT/CLIP/1.png (the same bytes) and OUT/manifest.csv. Subjects that are
spelt as those of CASME II, SAMM or SMIC get their person, so that nobody is two people.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.errors import DatasetError
from data.frames import IMAGE_SUFFIXES
from data.stages.files import replacing

CLASSES = {"0": "negative", "1": "positive", "2": "surprise"}
SIDES = ("u_train", "u_test")
COLUMNS = ("subject", "person", "video", "path", "fps", "kind", "show_faces", "event", "type",
           "onset", "apex", "offset", "emotion", "label_3")  # fmt: skip
# How three databases spell their subjects.
PEOPLE = (("casme2", re.compile(r"sub\d{2}")), ("smic", re.compile(r"s\d{1,2}")),
          ("samm", re.compile(r"\d{3}")))  # fmt: skip


@dataclass(frozen=True)
class FlowPicture:
    """One picture: whose it is, what it shows, where it lies."""

    subject: str
    clip: str
    label: str
    path: Path

    @property
    def person(self) -> str:
        """Identity across datasets."""
        space = next((n for n, form in PEOPLE if form.fullmatch(self.subject)), "csv")
        number = f"{int(self.subject[1:]):02d}" if space == "smic" else self.subject
        return f"{space}:{number}"


def import_pictures(root: Path, out: Path) -> list[FlowPicture]:
    """Write the dataset; returns its pictures in order of subject and clip.

    Raises DatasetError: no picture in either layout, one subject's folder alone, a picture of one
    subject among another's, a subject's own pictures among those it is trained on, a clip with two
    classes, OUT not empty.
    """
    found = find_pictures(root)
    if out.exists() and any(out.iterdir()):
        raise DatasetError(
            str(out), expected="a new or empty folder", got="files in it", code="folder_not_empty"
        )
    rows = []
    for picture in found:
        place = Path("pictures") / _safe(picture.subject) / _safe(picture.clip)
        (out / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture.path, out / place / f"1{picture.path.suffix.lower()}")
        rows.append(_row(picture, place.as_posix()))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(out / "manifest.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return found


def find_pictures(root: Path) -> list[FlowPicture]:
    """The pictures below `root`, each once. Raises as `import_pictures`."""
    if not root.is_dir():
        raise DatasetError(str(root), expected="a folder", got="none", code="no_such_folder")
    sides: dict[str, list[FlowPicture]] = {"": [], **{side: [] for side in SIDES}}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file() or len(parts) < 3:
            continue
        if parts[0] in SIDES and len(parts) == 3:
            raise DatasetError(
                str(root),
                expected="a folder of several subjects, SUBJECT/u_test/CLASS/CLIP.png",
                got=f"{parts[0]} right in it: one subject's folder",
                todo="Point at the folder above.",
                code="no_pictures",
            )
        side = parts[-3] if parts[-3] in SIDES and len(parts) > 3 else ""
        subject = parts[-4] if side else parts[-3]
        clip = path.stem.strip()
        clip = clip.removeprefix(f"{subject}_") if clip != subject else clip
        label = CLASSES.get(parts[-2], parts[-2].strip().lower())
        sides[side].append(FlowPicture(subject, clip, label, path))
    own = sides["u_test"] or sides[""]
    if not own:
        raise DatasetError(
            str(root),
            expected="pictures as SUBJECT/u_test/CLASS/CLIP.png or SUBJECT/CLASS/CLIP.png",
            got=f"{len(sides['u_train'])} under u_train only" if sides["u_train"] else "none",
            code="no_pictures",
        )
    _check_own(own, root)
    _check_training(sides["u_train"], own, root)
    return sorted(own, key=lambda p: (p.subject, p.clip))


def _check_own(own: Iterable[FlowPicture], root: Path) -> None:
    """Every clip once, and none whose name says another subject."""
    often = Counter((_safe(p.subject), _safe(p.clip)) for p in own)
    if twice := sorted(key for key, count in often.items() if count > 1):
        raise DatasetError(
            str(root),
            expected="every clip of a subject once, in one class",
            got=f"{len(twice)} twice, such as {'/'.join(twice[0])}",
            code="clip_in_two_classes",
        )
    subjects = {p.subject for p in own}
    for picture in own:
        named = next((s for s in subjects if picture.path.stem.startswith(f"{s}_")), None)
        if named is not None and not picture.path.stem.startswith(f"{picture.subject}_"):
            raise DatasetError(
                str(picture.path.relative_to(root)),
                expected=f"a picture of {picture.subject}",
                got=f"one whose name says {named}",
                code="other_subjects_picture",
            )


def _check_training(
    training: Iterable[FlowPicture], own: Iterable[FlowPicture], root: Path
) -> None:
    """Nobody's pictures are among those that their network is trained on."""
    names = {(p.subject, p.path.stem) for p in own}
    for picture in training:
        if (picture.subject, picture.path.stem) in names:
            raise DatasetError(
                str(picture.path.relative_to(root)),
                expected=f"no picture of {picture.subject} to train on",
                got="one that is also tested",
                todo="These folds leak; the project's own do not: remove u_train to import.",
                code="tested_picture_in_training",
            )


def _row(picture: FlowPicture, place: str) -> dict[str, str]:
    marks = dict.fromkeys(("onset", "apex", "offset"), "1")
    three = picture.label if picture.label in CLASSES.values() else ""
    clip = f"{_safe(picture.subject)}/{_safe(picture.clip)}"
    return {
        "subject": picture.subject,
        "person": picture.person,
        "video": clip,
        "path": place,
        "fps": "1",
        "kind": "clip",
        "show_faces": "1",  # flow shows no face
        "event": clip,
        "type": "micro",
        **marks,
        "emotion": picture.label,
        "label_3": three,
    }


def _safe(name: str) -> str:
    """A name that can be a folder and an id."""
    return re.sub(r"[^A-Za-z0-9_.()-]+", "_", name).strip("_.") or "_"


def summary(found: Iterable[FlowPicture]) -> str:
    """How many pictures of whom, by class and by database."""
    pictures = list(found)
    classes = Counter(p.label for p in pictures)
    sources = Counter(p.person.split(":")[0] for p in pictures)
    people = len({p.person for p in pictures})
    by_class = ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    by_source = ", ".join(f"{name} {count}" for name, count in sorted(sources.items()))
    return f"{len(pictures)} pictures of {people} people: {by_class} ({by_source})"

"""What alignment keeps an eye on beside the points: new scenes, and faces that were lost."""

from __future__ import annotations

from data.align.geometry import IDENTITY, CropMaker
from data.align.modes import Glimpse, Image, standard, thumb
from data.faces import FaceFinder, Reference, examine

CUT_LIKENESS = 0.5  # of consecutive pictures, of the face's place and of all: below there is a cut
PATIENT_SECONDS = 1.0  # between looks for a lost face that may have become small or dark
SMALL_FACE = 100.0  # px: detected only in an enlarged picture, with some distance to spare


class SceneWatch:
    """Whether a picture is like the one before it."""

    def __init__(self) -> None:
        self._whole: Glimpse | None = None
        self._place: Glimpse | None = None

    def unlike(self, grey: Image, maker: CropMaker) -> bool:
        """Whether neither the place of `maker`'s crop nor all of it is like the frame before."""
        x0, y0, x1, y1 = maker.box(IDENTITY, grey.shape)
        step = max(1, (x1 - x0) // 40)
        place, whole = standard(grey[y0:y1:step, x0:x1:step]), standard(thumb(grey))
        old_place, old_whole = self._place, self._whole
        self._place, self._whole = place, whole
        if old_place is None or old_whole is None or old_place.shape != place.shape:
            return False
        pairs = ((old_place, place), (old_whole, whole))
        return all(float((a * b).mean()) < CUT_LIKENESS for a, b in pairs)


class FaceSearch:
    """Looking for a lost face, frame after frame.

    A picture without a face is looked at in four ways, a third of a second of work at 960×540. Once
    a second all are tried; in between only what can show a face like the one that was lost.
    """

    def __init__(self, finder: FaceFinder | None, fps: float) -> None:
        self._finder, self._every = finder, round(PATIENT_SECONDS * fps)
        self._looked: int | None = None  # the last frame that was searched patiently

    def find(self, grey: Image, index: int, lost: Reference) -> Reference | None:
        """A usable face in frame `index`."""
        assert self._finder is not None
        patient = self._looked is None or index - self._looked >= self._every
        if patient:
            self._looked = index
        dark = patient or "dark" in lost.flags
        small = patient or float(lost.face.box[2] - lost.face.box[0]) < SMALL_FACE
        return examine(self._finder, grey, index, dark=dark, small=small)[0]

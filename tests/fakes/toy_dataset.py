"""A dataset adapter in one file, as a user would add it: CASME's folders under another name."""

from __future__ import annotations

from data.datasets.casme import Casme


class Toy(Casme):
    """A lab's own recordings, laid out as CASME is."""

    name = "toy"
    title = "Toy"
    show_faces = True


ADAPTER = Toy()

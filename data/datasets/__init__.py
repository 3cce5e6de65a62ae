"""Datasets as their owners ship them, read into one schema.

`open_dataset(name, root)` is the door. One adapter is one module and one line in ADAPTERS.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DatasetError

if TYPE_CHECKING:  # the command line lists the layouts: that must not take reading pandas
    from data.datasets.base import Adapter, Dataset

ADAPTERS = {
    "casme2": "data.datasets.casme2",
    "samm": "data.datasets.samm",
    "smic": "data.datasets.smic",
    "smic_e": "data.datasets.smic_e",
    "cas_me2": "data.datasets.cas_me2",
    "samm_lv": "data.datasets.samm_lv",
    "casme3": "data.datasets.casme3",
    "casme3_c": "data.datasets.casme3_c",
    "mmew": "data.datasets.mmew",
    "4dme": "data.datasets.fourd",
    "casme": "data.datasets.casme",
    "dfme": "data.datasets.dfme",
    "megc": "data.datasets.megc",
    "csv": "data.datasets.csv_manifest",
}


def get_adapter(name: str) -> Adapter:
    """The adapter of layout `name`. Raises DatasetError `unknown_layout`, listing the known."""
    if name not in ADAPTERS:
        raise DatasetError(
            "layout",
            expected=f"one of {', '.join(ADAPTERS)}",
            got=repr(name[:80]),
            code="unknown_layout",
        )
    adapter: Adapter = import_module(ADAPTERS[name]).ADAPTER
    return adapter


def open_dataset(name: str, root: str | Path) -> Dataset:
    """Read the dataset at `root` in layout `name`; nothing is written.

    `.videos .frames .events .ledger` are pandas tables as in `data.schema`; `.findings` lists every
    defect with its repair. Raises DatasetError when the folder or the sheet cannot be used at all.
    """
    from data.datasets.assemble import read_dataset

    adapter = get_adapter(name)
    try:
        folder = Path(root).expanduser()
    except RuntimeError as error:  # ~somebody who is not on this machine
        raise DatasetError(
            str(root), expected="a folder", got=str(error), code="no_such_folder"
        ) from error
    return read_dataset(adapter, folder)

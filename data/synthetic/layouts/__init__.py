"""The layouts by name. One layout = one file here + one line in `_LAYOUTS`."""

from __future__ import annotations

from importlib import import_module

from data.errors import ConfigError
from data.synthetic.layouts.base import SyntheticLayout

# name -> "module:class"; imported on demand.
_LAYOUTS = {
    "casme2": "casme2:SyntheticCasme2",
    "samm": "samm:SyntheticSamm",
    "smic": "smic:SyntheticSmic",
    "smic_e": "smic_e:SyntheticSmicE",
    "cas_me2": "cas_me2:SyntheticCasMe2",
    "samm_lv": "samm_lv:SyntheticSammLv",
    "casme3": "casme3:SyntheticCasme3",
    "casme3_c": "casme3_c:SyntheticCasme3C",
    "mmew": "mmew:SyntheticMmew",
    "4dme": "fourdme:SyntheticFourDme",
    "casme": "casme:SyntheticCasme",
    "dfme": "dfme:SyntheticDfme",
    "megc": "megc:SyntheticMegc",
    "csv": "csv_manifest:SyntheticCsvManifest",
}


def layout_names() -> list[str]:
    """All layout names, in the order of the map."""
    return list(_LAYOUTS)


def get_layout(name: str) -> SyntheticLayout:
    """The layout `name`, or `name:variant`; `ConfigError` listing the known ones otherwise."""
    base, _, variant = name.partition(":")
    if base not in _LAYOUTS:
        raise ConfigError("layout", expected=f"one of {', '.join(_LAYOUTS)}", got=repr(name))
    made = _layout_class(base)
    if variant not in ("", *made.variants) or name.endswith(":"):
        known = ", ".join([base, *(f"{base}:{v}" for v in made.variants)])
        raise ConfigError("layout variant", expected=f"one of {known}", got=repr(name))
    return made(variant)


def variant_names() -> list[str]:
    """Every `layout:variant`, in the order of the map."""
    return [f"{name}:{v}" for name in _LAYOUTS for v in _layout_class(name).variants]


def _layout_class(name: str) -> type[SyntheticLayout]:
    module, cls = _LAYOUTS[name].split(":")
    found: type[SyntheticLayout] = getattr(import_module(f"data.synthetic.layouts.{module}"), cls)
    return found

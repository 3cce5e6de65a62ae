"""The layouts by name. One layout = one file here + one line in `_LAYOUTS`."""

from __future__ import annotations

from importlib import import_module

from data.errors import ConfigError
from data.synthetic.layouts.base import Layout

# name -> "module:class"; imported on demand.
_LAYOUTS = {
    "casme2": "casme2:Casme2",
    "samm": "samm:Samm",
    "smic": "smic:Smic",
    "smic_e": "smic_e:SmicE",
    "cas_me2": "cas_me2:CasMe2",
    "samm_lv": "samm_lv:SammLv",
    "casme3": "casme3:Casme3",
    "casme3_c": "casme3_c:Casme3C",
    "mmew": "mmew:Mmew",
    "4dme": "fourdme:FourDme",
    "casme": "casme:Casme",
    "csv": "csv_manifest:CsvManifest",
}


def layout_names() -> list[str]:
    """All layout names, in the order of the map."""
    return list(_LAYOUTS)


def get_layout(name: str) -> Layout:
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


def _layout_class(name: str) -> type[Layout]:
    module, cls = _LAYOUTS[name].split(":")
    found: type[Layout] = getattr(import_module(f"data.synthetic.layouts.{module}"), cls)
    return found

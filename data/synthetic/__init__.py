"""Synthetic micro-expression datasets in the layouts of the real ones.

One public-domain portrait becomes many people (`subjects`), whose faces move by action units
(`action_units`) along expression curves while the head drifts, the light flickers and the lids
blink (`dynamics`, `script`); `geometry` and `render` make frames of it at a known displacement of
every pixel, `layouts` file them as a dataset's owner would, `truth` gives the answers.

What it is for: every stage can be run, timed and scored without a licence, against exact labels
and exact flow. What it is not: all people share one head of hair, one suit and one room, and they
move only in the ways written down here. A score on it shows that a method finds small facial
motion under head motion and noise across face shapes and lightings; it does not show how well the
method does on real people.
"""

from data.synthetic.layouts import get_layout, layout_names, variant_names
from data.synthetic.presets import PRESETS, Preset
from data.synthetic.truth import Truth, VideoTruth, load_truth
from data.synthetic.writer import GENERATOR_VERSION, write_dataset

__all__ = [
    "GENERATOR_VERSION",
    "PRESETS",
    "Preset",
    "Truth",
    "VideoTruth",
    "get_layout",
    "layout_names",
    "load_truth",
    "variant_names",
    "write_dataset",
]

"""Apex by change of texture: local binary patterns, and energy of fast spatio-temporal change.

Both look at square blocks over the brows and the mouth, eyes left out. They are the classical
methods, kept for comparison: our own summaries of the ideas, not of any paper's exact settings.

- lbp: chi-squared distance of each frame's pattern histograms to the onset's; the half of the
  event with the larger sum of peaks is kept until one frame is left (divide and conquer).
- frequency: around each frame a short clip of each block is taken to the three-dimensional Fourier
  domain and the energy beyond a radius is summed. It answers to how fast things change.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from data.apex.clip import Array, Clip, Spotted, every_frame, peak_ratio, smoothed

BLOCK = 0.25  # side, inter-pupil distances
REACH = 0.15  # how far beyond brows and mouth the blocks go, inter-pupil distances
WINDOW = 7  # frames of a frequency window
RADIUS = 0.35  # of the Nyquist frequency
LATTICE = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def lbp(clip: Clip) -> Spotted:
    """The apex by divide and conquer on the distance of pattern histograms to the onset's."""
    codes = np.stack([local_patterns(crop) for crop in clip.crops])
    distance = np.zeros(len(codes))
    for rows, columns in blocks(clip):
        counts = [np.bincount(c[rows, columns].ravel(), minlength=256) for c in codes]
        h = np.stack(counts) / max(codes[0, rows, columns].size, 1)
        distance += ((h - h[0]) ** 2 / np.maximum(h + h[0], 1e-9)).sum(axis=1)
    curve = smoothed(distance, clip.times, clip.smooth)
    low, high = _inside(clip)
    return _spotted(clip, curve, divide_and_conquer(curve, low, high))


def frequency(clip: Clip) -> Spotted:
    """The apex at the peak of high-frequency energy."""
    m, half = len(clip.crops), WINDOW // 2
    padded = np.pad(clip.crops.astype(np.float32), ((half, half), (0, 0), (0, 0)), mode="edge")
    energy = np.zeros(m)
    for rows, columns in blocks(clip):
        block = padded[:, rows, columns]
        axes = [np.fft.fftfreq(n) * 2 for n in (WINDOW, *block.shape[1:])]
        f = np.sqrt(sum(g**2 for g in np.meshgrid(*axes, indexing="ij")))
        passes = (f > RADIUS) & (axes[0] != 0)[:, None, None]  # still texture says nothing
        for t in range(m):
            spectrum = np.fft.fftn(block[t : t + WINDOW])
            energy[t] += np.abs(spectrum[passes]).sum()
    curve = smoothed(energy / energy.mean(), clip.times, clip.smooth)
    low, high = _inside(clip)
    return _spotted(clip, curve, low + int(np.argmax(curve[low : high + 1])))


def local_patterns(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """8-neighbour binary pattern (H,W) of a grey image; borders repeat."""
    grown = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    h, w = image.shape
    code = np.zeros((h, w), np.uint8)
    for bit, (dy, dx) in enumerate(LATTICE):
        code |= (grown[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] >= image).astype(np.uint8) << bit
    return code


def blocks(clip: Clip) -> list[tuple[slice, slice]]:
    """Square blocks that cover both brows and the mouth."""
    size, ipd = clip.crops.shape[1], clip.ipd
    side, reach = max(6, round(BLOCK * ipd)), REACH * ipd
    found = []
    for part in (slice(17, 22), slice(22, 27), slice(48, 60)):
        low = np.clip(clip.landmarks[part].min(axis=0) - reach, 0, size - side)
        high = np.clip(clip.landmarks[part].max(axis=0) + reach, side, size)
        xs, ys = (np.arange(round(low[k]), round(high[k]) - side + 1, side) for k in (0, 1))
        found += [
            (slice(int(y), int(y) + side), slice(int(x), int(x) + side)) for y in ys for x in xs
        ]
    return found or [(slice(0, size), slice(0, size))]


def divide_and_conquer(curve: Array, low: int, high: int) -> int:
    """Halve [low, high] towards the larger sum of local peaks until one frame is left."""
    higher = curve[1:-1] >= np.maximum(curve[:-2], curve[2:])
    peaks = np.where(np.concatenate([[True], higher, [True]]), curve, 0.0)
    while high > low:
        middle = (low + high) // 2
        left, right = peaks[low : middle + 1].sum(), peaks[middle + 1 : high + 1].sum()
        if left == right:  # no peaks left: the values themselves decide
            return low + int(np.argmax(curve[low : high + 1]))
        low, high = (low, middle) if left > right else (middle + 1, high)
    return low


def _inside(clip: Clip) -> tuple[int, int]:
    """First and last crop whose time may be the apex."""
    first, last = clip.limits
    allowed = np.flatnonzero((clip.times >= first) & (clip.times <= last))
    if not len(allowed):
        allowed = np.array([len(clip.times) // 2])
    return int(allowed[0]), int(allowed[-1])


def _spotted(clip: Clip, curve: Array, index: int) -> Spotted:
    return Spotted(round(float(clip.times[index])), peak_ratio(curve), every_frame(curve, clip))

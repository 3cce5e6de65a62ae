"""Robust head poses from tracked points, frame by frame: the model, its priors, the fit.

Where a point went, in inter-pupil distances about the crop's centre, is linear in what is sought:

    moved − point = similarity + yaw, pitch in perspective + small affine      (`geometry.bends`)
                    + drift · light                                   what a flicker does to tracks
                    + Σ shape(action unit, side) · strength           what expressions do

Iteratively reweighted least squares with Tukey's biweight (Beaton & Tukey 1974). Its scale comes
from the points themselves: the median error of all of them over 1.177, the median of a Rayleigh
distribution of unit scale; so it follows the picture's noise, its size and its compression. The
first rounds inflate it, which lets the majority settle before the rest is judged. A raised brow
takes the forehead along, a third of what can be tracked, and would pass for a nod: so facial action
units are fitted beside the pose, and what they explain is left out of it. Points count by how
lonely they are, so that a beard does not outvote a brow. Neighbouring points err together: priors
and uncertainties reckon a point at a fifth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.align.geometry import Geometry, bends, hull_points
from data.faces import interpupil
from data.synthetic.action_units import UNITS, mirror_index

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

POSE_TERMS, LIGHT_TERMS = 8, 2
ANGLE_SD, AFFINE_SD = 0.05, 0.005  # priors: yaw and pitch, rad; the affine part
GAIN_SD, OFFSET_SD = 0.02, 0.02  # priors of the light: 2 %, 2 grey levels
MOVING_UNITS = (1, 2, 4, 6, 9, 10, 12, 14, 15, 17, 20)  # action units that move tracked places
UNIT_SD = 0.06  # prior of a unit's strength, inter-pupil distances
ALONE = 0.12  # distance within which points share their say, inter-pupil distances
BISQUARE = 3.0  # of the scale: where a point stops counting
LEAST_ERROR = 0.0004  # no scale is smaller, inter-pupil distances
FIRST_ERROR = 0.003  # what a point is worth in the first round
INFLATION = (3.0, 2.6, 2.2, 1.8, 1.4)  # of the scale, in the first rounds
ROUNDS = 12
KIN = 5.0  # points that err like one
MIN_POINTS = 12  # fewer give no pose
# a fit that leaves one of these is doubtful: tracks kept, tracks agreeing, error (IPD)
MIN_KEPT, MIN_AGREEING, MAX_ERROR = 0.4, 0.35, 0.012
MIN_SEEN = 0.15  # of all points must agree: fewer may be the rim of a face that is gone


def expressions(landmarks: Array, points: Array) -> Array:
    """What facial action units do to points (N,2) px: (2, N, 22), either side of the face apart.

    Columns have peaks of about one; the shapes are those of `data.synthetic.action_units`.
    """
    ipd, mirrored = interpupil(landmarks), mirror_index()
    columns = []
    for unit in MOVING_UNITS:
        for side in (1, -1):
            moved = np.zeros((2, len(points)))
            for bump in UNITS[unit]:
                at = list(bump.points) if side > 0 else mirrored[list(bump.points)]
                centre = landmarks[at].mean(axis=0) + ipd * np.array([side, 1]) * bump.offset
                away = (points - centre) / (ipd * np.array(bump.sigma))
                way = bump.weight * np.array([side, 1]) * bump.direction
                moved += way[:, None] * np.exp(-0.5 * (away**2).sum(axis=1))
            columns.append(moved)
    return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class PoseFit:
    """Poses of T frames from N points.

    poses (T,8) as `data.align.geometry`, px; lights (T,2): gain − 1, offset / 100; weights (T,N)
    0..1 in the last round; error (T,N) px from where the head puts each point, NaN where it was
    lost; sigma (T,) px, the scale; sd (T,) px, standard deviation of where the pose puts the face,
    RMS over it; kept and agreeing (T,), shares of the points; solved (T,): whether there is a pose
    at all (else the identity and NaN).
    """

    poses: Array
    lights: Array
    weights: Array
    error: Array
    sigma: Array
    sd: Array
    kept: Array
    agreeing: Array
    solved: Mask
    sure: Mask


class Model:
    """What is linear in the pose for the points (N,2) px of one reference; see the module."""

    def __init__(
        self,
        geometry: Geometry,
        points: Array,
        drift: Array,
        *,
        parallax: bool = True,
        give: bool = True,
    ) -> None:
        """`drift` (N,2,2) px as `tracking.light_drift`; `give`: with expressions."""
        self._geometry, self._points = geometry, points
        self._ipd = geometry.ipd
        design = [pose_columns(geometry, points), drift.transpose(1, 0, 2) / self._ipd]
        sd = [10.0] * 4 + [ANGLE_SD] * 2 + [AFFINE_SD] * 2 + [GAIN_SD, OFFSET_SD]
        if not parallax:
            sd[4:8] = [1e-9] * 4
        if give:
            units = expressions(geometry.landmarks, points)
            design.append(units)
            sd += [UNIT_SD] * units.shape[-1]
        self.design: Array = np.concatenate(design, axis=-1)
        self.precision: Array = np.array(sd) ** -2.0
        terms = self.design.shape[-1]
        rows, columns = np.triu_indices(terms)
        self._products = sum(d[:, rows] * d[:, columns] for d in self.design)
        whole = np.empty((terms, terms), np.int64)
        whole[rows, columns] = whole[columns, rows] = np.arange(len(rows))
        self._whole = whole.ravel()
        self.balance = _balance(points, self._ipd)
        hull = hull_points(geometry.landmarks, step=max(1, round(self._ipd / 6)))
        face = pose_columns(geometry, hull)
        self._spread: Array = np.asarray(sum(f.T @ f for f in face) / len(hull))

    def normal(self, weight: Array) -> Array:
        """Normal matrices (T,K,K) of weights (T,N)."""
        terms = self.design.shape[-1]
        return np.asarray((weight @ self._products)[:, self._whole].reshape(-1, terms, terms))

    def fit(self, moved: Array, found: Mask, lit: Mask, rounds: int = ROUNDS) -> PoseFit:
        """Poses of frames whose points went to `moved` (T,N,2) px where `found` (T,N).

        `lit` (T,): whether light shows in the tracks; not where they come from equalised pictures.
        """
        count, terms = len(moved), self.design.shape[-1]
        solved = found.sum(axis=1) >= MIN_POINTS
        many = found.shape[1]
        target: Array = np.where(found[..., None], (moved - self._points) / self._ipd, 0.0)
        target = np.concatenate([target[..., 0], target[..., 1]], axis=1)  # x of all, y of all
        design: Array = self.design.reshape(2 * many, terms)
        prior = np.zeros((count, terms, terms))
        prior[:, range(terms), range(terms)] = self.precision
        dark = np.flatnonzero(~lit)
        for k in range(POSE_TERMS, POSE_TERMS + LIGHT_TERMS):
            prior[dark, k, k] = 1e12
        weight = found * self.balance
        worth = np.full(count, FIRST_ERROR)
        answer: Array = np.zeros((count, terms))
        error: Array = np.zeros(found.shape)
        normal = prior
        for turn in range(rounds):
            precision = 1 / (KIN * worth**2)
            normal = self.normal(weight * precision[:, None]) + prior
            right = (np.hstack([weight, weight]) * target) @ design * precision[:, None]
            answer = np.asarray(np.linalg.solve(normal, right[..., None])[..., 0])
            miss = target - answer @ design.T
            error = np.hypot(miss[:, :many], miss[:, many:])
            error[~found] = np.inf
            worth = np.maximum(_masked_median(error, found) / 1.177, LEAST_ERROR)
            worth = worth * (INFLATION[turn] if turn < len(INFLATION) else 1.0)
            cut = BISQUARE * worth
            near = np.maximum(1 - (error / cut[:, None]) ** 2, 0)
            weight = near * near * self.balance
        change = answer[:, :POSE_TERMS]
        covariance = np.linalg.inv(normal)[:, :POSE_TERMS, :POSE_TERMS]
        sd = np.sqrt(np.einsum("tij,ji->t", covariance, self._spread)) * self._ipd
        kept = found.mean(axis=1) if found.shape[1] else np.zeros(count)
        agreeing = (weight > 0).mean(axis=1) if found.shape[1] else np.zeros(count)
        poses = change * np.array([1, 1, self._ipd, self._ipd, 1, 1, 1, 1])
        poses[:, 0] += 1
        solved &= ((weight > 0).sum(axis=1) >= MIN_POINTS) & (agreeing >= MIN_SEEN)
        solved &= np.abs(poses[:, 0] - 1) < 0.5
        sure = solved & (kept >= MIN_KEPT) & (agreeing >= MIN_AGREEING) & (worth <= MAX_ERROR)
        miss = target - change @ design[:, :POSE_TERMS].T
        away = np.hypot(miss[:, :many], miss[:, many:])
        poses[~solved] = 0
        poses[~solved, 0] = 1
        nothing = ~solved[:, None]
        return PoseFit(
            poses,
            answer[:, POSE_TERMS : POSE_TERMS + LIGHT_TERMS],
            np.where(nothing, 0, weight / np.maximum(self.balance, 1e-9)),
            np.where(found & ~nothing, away * self._ipd, np.nan),
            np.where(solved, worth * self._ipd, np.nan),
            np.where(solved, sd, np.nan),
            kept,
            agreeing,
            solved,
            sure,
        )


def pose_columns(geometry: Geometry, points: Array) -> Array:
    """(2,N,8): derivatives of the points by the pose, inter-pupil distances."""
    x, y = np.moveaxis((points - geometry.centre) / geometry.ipd, -1, 0)
    one, nil = np.ones_like(x), np.zeros_like(x)
    similarity = np.array([[x, -y, one, nil], [y, x, nil, one]]).transpose(0, 2, 1)
    return np.concatenate([similarity, bends(x, y, geometry.depth(points))], axis=-1)


def _balance(points: Array, ipd: float) -> Array:
    """What each point counts: less where they crowd, 0.3 .. 3."""
    if not len(points):
        return np.zeros(0)
    apart = ((points[:, None] - points) ** 2).sum(-1)
    lonely = 1 / np.exp(-0.5 * apart / (ALONE * ipd) ** 2).sum(axis=1)
    return np.asarray(np.clip(lonely / np.median(lonely), 0.3, 3.0))


def _masked_median(values: Array, mask: Mask) -> Array:
    """Upper median (T,) of the values (T,N) where `mask`; values elsewhere are infinite."""
    counts = mask.sum(axis=1)
    if values.shape[1] == 0:
        return np.full(len(values), np.inf)
    at = np.minimum(counts // 2, values.shape[1] - 1)
    if len(values) == 1:
        middle = np.partition(values[0], at[0])[at]
    else:
        middle = np.sort(values, axis=1)[np.arange(len(values)), at]
    return np.where(counts > 0, middle, 1.0)

"""Gaps between the angles of a scan, filled with what the projections around them tell.

Where projections are missing, or a set was aborted, the neighbours of a gap would have to stand for all of it, and what is narrow in them
makes streaks; no choice of weights mends that. But what is wide in a projection changes slowly with the angle. For a sample that may be
anything within a disc of radius R (white noise, on average), the Fourier transforms of two projections at the frequency ω, an angle δ
apart, have the correlation 2 J1(k R) / (k R), where k = 2 ω sin(δ/2). The best linear prediction from it (kriging) gives the
projections in between, up to the frequency that the gap allows: beyond, it tends to 0 and adds nothing.

Source of the method: the central slice theorem (Kak & Slaney 1988, chapter 3) and Rasmussen & Williams (2006), section 2.7.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from operandi.stages.sinograms import fill_gaps, usable_projections

_WIDE = 1.5
"""Gaps of more than so many wanted steps are filled."""
_NEAR = 24
_NOISE = 0.03
"""Share of the variance of a sample that is noise."""


class _Gap(NamedTuple):
    """One gap: which projections around it tell of it, and how, for their real and imaginary parts (frequency, inserted, near)."""

    near: np.ndarray
    even: np.ndarray
    odd: np.ndarray


@dataclass(frozen=True, slots=True)
class AngularFill:
    """Projections to insert among those of a scan.

    ``rotation_deg`` (used + inserted,): of the projections number ``used``, then of the inserted ones.
    """

    rotation_deg: np.ndarray
    used: np.ndarray
    gaps: tuple[_Gap, ...]
    turn: np.ndarray
    """(frequency,) what moves the rotation axis to the first sample."""

    def fill(self, sinogram: np.ndarray) -> np.ndarray:
        """The used and the inserted projections (used + inserted, translation, q), float32, of a sinogram (rotation, translation, q).

        Channels of which some used projection has nothing are NaN throughout.
        """
        values, lost = fill_gaps(np.ascontiguousarray(sinogram[self.used], np.float32))
        length = 2 * values.shape[1]
        spectra = np.fft.rfft(values, length, axis=1) * self.turn[:, None]
        filled = [values]
        for gap in self.gaps:
            around = spectra[gap.near].transpose(1, 0, 2)
            between = gap.even @ around.real + 1j * (gap.odd @ around.imag)
            back = np.fft.irfft(between / self.turn[:, None, None], length, axis=0)[: values.shape[1]]
            filled.append(back.transpose(1, 0, 2).astype(np.float32))
        whole = np.concatenate(filled)
        whole[:, :, lost] = np.nan
        return whole


def plan_fill(sinogram: np.ndarray, rotation_deg: np.ndarray, translation_mm: np.ndarray, axis_mm: float) -> AngularFill | None:
    """What is to be inserted where the angles of the usable projections leave wide gaps; None where there are none.

    Wide is more than 1.5 times both the mean step and that which resolves the translations, 2 / translations rad.

    Parameters
    ----------
    sinogram : (rotation, translation, q), of any channels; NaN is not measured.
    rotation_deg, translation_mm : (rotation,), (translation,) equally spaced.
    axis_mm : the rotation axis on the translation axis.
    """
    used = np.flatnonzero(usable_projections(sinogram) & np.isfinite(rotation_deg))
    angle, n = np.asarray(rotation_deg, float)[used], translation_mm.size
    start, inserted = _gaps(angle, n)
    if not inserted:
        return None
    frequency = 2 * np.pi * np.fft.rfftfreq(2 * n)
    centre = (axis_mm - translation_mm[0]) / (translation_mm[1] - translation_mm[0])
    gaps = [_gap(angle, first, wanted, frequency * n / 2) for first, wanted in zip(start, inserted, strict=True)]
    turn = np.exp(1j * frequency * centre).astype(np.complex64)
    return AngularFill(np.concatenate([angle, *inserted]), used, tuple(gaps), turn)


def _gaps(angle: np.ndarray, translations: int) -> tuple[list[float], list[np.ndarray]]:
    """Where wide gaps begin, and the angles to insert in each, modulo 180°."""
    distinct = np.unique(np.mod(angle, 180.0))
    if distinct.size < 3:
        return [], []
    gap = np.diff(np.append(distinct, distinct[0] + 180.0))
    wanted = max(180.0 / distinct.size, float(np.rad2deg(2 / translations)))
    wide = np.flatnonzero(gap > _WIDE * wanted)
    number = np.ceil(gap[wide] / wanted - 0.25).astype(int)
    steps = [distinct[i] + gap[i] * np.arange(1, k) / k for i, k in zip(wide, number, strict=True)]
    return distinct[wide].tolist(), [np.mod(step, 180.0) for step in steps]


def _gap(angle: np.ndarray, start: float, wanted: np.ndarray, reach: np.ndarray) -> _Gap:
    """How the nearest projections tell of ``wanted`` angles (inserted,); ``reach`` (frequency,) is ω R.

    A projection from the other side, 180° further, is the same mirrored: its transform is the conjugate, so that real parts add where
    imaginary ones subtract.
    """
    middle = start + 0.5 * np.mod(wanted[0] + wanted[-1] - 2 * start, 180.0)
    apart = np.abs(np.mod(angle - middle + 90.0, 180.0) - 90.0)
    near = np.sort(np.argsort(apart, kind="stable")[:_NEAR])
    at = angle[near]
    same, mirrored = (_correlation(at[:, None] - at + turned, reach) for turned in (0.0, 180.0))
    to_same, to_mirrored = (_correlation(wanted[:, None] - at + turned, reach) for turned in (0.0, 180.0))
    noise = _NOISE * np.eye(near.size)
    even, odd = (
        np.linalg.solve(same + sign * mirrored + noise, (to_same + sign * to_mirrored).swapaxes(1, 2)).swapaxes(1, 2) for sign in (1, -1)
    )
    return _Gap(near, even.astype(np.float32), odd.astype(np.float32))


def _correlation(apart_deg: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Correlation (frequency, …) of projections ``apart_deg`` (…) apart."""
    k = 2 * reach.reshape(-1, *(1,) * apart_deg.ndim) * np.abs(np.sin(np.deg2rad(apart_deg) / 2))
    return np.divide(2 * special.j1(k), k, out=np.ones_like(k), where=k > 1e-6)

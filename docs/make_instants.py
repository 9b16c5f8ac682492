"""Draws the picture of the explanation of operando time, and prints its figures: ``python docs/make_instants.py``."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from reacting import CHANNELS, NOISE, SET_S, effective_times_of_all, measure, quadrant_difference  # noqa: E402

from operandi.stages.instants import Projections, instant_sinogram, instant_sinograms  # noqa: E402
from operandi.stages.moments import SINGLE, course_times, voxel_times  # noqa: E402
from operandi.stages.temporal import learn  # noqa: E402
from operandi.stages.trends import with_trend  # noqa: E402
from operandi.stages.volumes import partial_volume  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "instants.png"
FRAME, CHANNEL = 1, "NMC delithiated"


def main() -> None:
    """Measure the simulated cell, compare every frame with the truth, and draw one."""
    cell = measure(translations=61, rotations=45)
    sigma = NOISE * cell.sinograms.max()
    noisy = cell.sinograms + sigma * np.random.default_rng(0).standard_normal(cell.sinograms.shape)
    flat = noisy.reshape(-1, *noisy.shape[2:])
    measured = Projections(
        cell.rotation_deg.ravel(), cell.curve.charge(cell.time_s).mean(axis=2).ravel(), flat, np.full(flat.shape, sigma**2)
    )
    model = learn(measured.intensity, measured.variance, measured.rotation_deg, measured.progress)
    model = with_trend(measured, model, cell.translation_mm, 0.0)
    print("frame  charge, mAh  error of the instant / sliding: linear  quadratic  model   asymmetry: linear  quadratic  model")
    for frame in range(9):
        print(_row(cell, noisy, measured, model, frame))
    print("frame  correlation of the voxels' moments with the truth: all that change  of a single moment   share of these")
    for frame in range(9):
        found, effective, clear, bend = moments = _moments(cell, noisy, measured, model, frame)
        single = clear & (bend < SINGLE)
        of_all, of_single = (np.corrcoef(found[chosen], effective[chosen])[0, 1] for chosen in (clear, single))
        print(f"{frame + 1}  {of_all:.2f}  {of_single:.2f}  {single.sum() / clear.sum():.2f}")
        if frame == FRAME:
            drawn = moments
    _draw(_panels(cell, noisy, measured, model, drawn), cell)


def _row(cell, noisy, measured, model, frame) -> str:
    rotation, _, values = cell.window(frame, noisy)
    charge, truth = float(cell.curve.charge((frame + 1) * SET_S)), cell.frozen((frame + 1) * SET_S)
    sliding = partial_volume(values, rotation, cell.translation_mm, 0.0)
    errors, asymmetries = [], []
    for scheme in ("linear", "quadratic", "model"):
        instant = instant_sinogram(measured, charge, scheme, model)
        volume = partial_volume(instant.intensity, instant.rotation_deg, cell.translation_mm, 0.0)
        errors.append(np.sqrt(np.mean((volume - truth) ** 2) / np.mean((sliding - truth) ** 2)))
        asymmetries.append(np.linalg.norm(quadrant_difference(volume - truth)) / np.linalg.norm(quadrant_difference(sliding - truth)))
    return f"{frame + 1}  {charge:.2f}  " + "  ".join(f"{value:.2f}" for value in errors + asymmetries)


def _moments(cell, noisy, measured, model, frame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every voxel the moment, that of the truth, which voxels change clearly, and the bend of their course."""
    rotation, times, _ = cell.window(frame, noisy)
    at = (rotation, cell.translation_mm, 0.0)
    when = ((frame + np.linspace(0, 2, 7)) * SET_S).tolist()
    instants = instant_sinograms(measured, cell.curve.charge(np.array(when)).tolist(), "model", model)
    rows = np.searchsorted(instants[0].rotation_deg, rotation)
    course = np.stack([one.intensity[rows] for one in instants])
    found = course_times(voxel_times(times, *at), times, course, when, instants[3].variance[rows], (*at, "ramp"))
    seconds = (frame - 0.5 + np.linspace(0, 3, 25)) * SET_S
    series = np.stack([cell.frozen(t) for t in seconds])
    change = np.linalg.norm(series[-5] - series[4], axis=-1)
    shown = partial_volume(cell.window(frame, cell.sinograms)[2], *at)
    return found.mean, effective_times_of_all(series, seconds, shown), change > 0.25 * np.percentile(change, 99), found.bend


def _panels(cell, noisy, measured, model, moments) -> dict[str, np.ndarray]:
    channel = CHANNELS.index(CHANNEL)
    middle, (rotation, _, values) = (FRAME + 1) * SET_S, cell.window(FRAME, noisy)
    instant = instant_sinogram(measured, float(cell.curve.charge(middle)), "model", model)
    truth = cell.frozen(middle)[..., channel]
    sliding = partial_volume(values, rotation, cell.translation_mm, 0.0)[..., channel]
    now = partial_volume(instant.intensity, instant.rotation_deg, cell.translation_mm, 0.0)[..., channel]
    found, effective, clear, bend = moments
    unclear = ~clear | (bend > SINGLE)
    moved = {name: np.where(unclear, np.nan, times - middle) / 60 for name, times in (("moments", found), ("effective", effective))}
    return {"truth": truth, "sliding": sliding, "instant": now, **moved}


def _draw(panels: dict[str, np.ndarray], cell) -> None:
    half = cell.translation_mm[-1] + 0.5 * (cell.translation_mm[1] - cell.translation_mm[0])
    common = {"origin": "lower", "extent": (-half, half, -half, half), "interpolation": "nearest"}
    figure, axes = plt.subplots(2, 4, figsize=(13.2, 6.7), layout="constrained")
    top = float(np.percentile(panels["truth"], 99.7))
    first, last = FRAME * SET_S / 60, (FRAME + 2) * SET_S / 60
    titles = {
        "truth": "truth: the cell stopped at 24 min",
        "sliding": f"sliding window, {first:.0f} – {last:.0f} min",
        "instant": "frame of one instant, 24 min",
    }
    for axis, (name, title) in zip(axes[0], titles.items(), strict=False):
        image = axis.imshow(panels[name], cmap="viridis", vmin=0, vmax=top, **common)
        axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes[0, :3], label="delithiated NMC, volume fraction", shrink=0.9, pad=0.01)
    limit = float(np.percentile(np.abs(panels["sliding"] - panels["truth"]), 99.5))
    for axis, name, title in zip(axes[1, 1:3], ("sliding", "instant"), ("sliding window − truth", "instant − truth"), strict=True):
        difference = panels[name] - panels["truth"]
        image = axis.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, **common)
        axis.set_title(f"{title}, r.m.s. {np.sqrt(np.mean(difference**2)):.4f}", fontsize=10)
    figure.colorbar(image, ax=axes[1, 1:3], label="difference, volume fraction", shrink=0.9, pad=0.01)
    for axis, name, title in zip(
        axes[:, 3], ("moments", "effective"), ("every voxel's moment, measured", "every voxel's moment, truth"), strict=True
    ):
        image = axis.imshow(panels[name], cmap="RdBu_r", vmin=-6, vmax=6, **common)
        axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes[:, 3], label="minutes from the middle of the window", shrink=0.6, pad=0.01)
    _quadrants(axes[1, 0], panels)
    for axis in axes.ravel()[[0, 1, 2, 3, 5, 6, 7]]:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.plot([-3.9, -1.9], [-3.95, -3.95], color="white" if axis in axes[0, :3] else "black", lw=2.5, solid_capstyle="butt")
    axes[0, 0].text(-2.9, -3.8, "2 mm", color="white", ha="center", va="bottom", fontsize=8)
    figure.savefig(PICTURE, dpi=130)


def _quadrants(axis, panels: dict[str, np.ndarray]) -> None:
    """Mean error within the windings of each quadrant: the sliding window's beside the instant's."""
    at = np.arange(len(panels["truth"])) - (len(panels["truth"]) - 1) / 2
    x, y = np.meshgrid(at, at)
    wound = panels["truth"] > 0.5 * np.percentile(panels["truth"], 98)
    quadrants = [(x > 0) & (y > 0), (x < 0) & (y > 0), (x < 0) & (y < 0), (x > 0) & (y < 0)]
    for offset, name, colour in ((-0.2, "sliding", "0.55"), (0.2, "instant", "#3b528b")):
        means = [1e3 * float((panels[name] - panels["truth"])[wound & q].mean()) for q in quadrants]
        axis.bar(np.arange(4) + offset, means, 0.38, color=colour, label={"sliding": "sliding window", "instant": "instant"}[name])
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xticks(range(4), ["top\nright", "top\nleft", "bottom\nleft", "bottom\nright"], fontsize=8)
    axis.set_ylabel("mean error in the windings, 10⁻³")
    axis.legend(fontsize=8, frameon=False, loc="lower right", handlelength=0.8, handletextpad=0.4, borderaxespad=0)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()

"""Draws the picture of the explanation of unrolling, and prints its figures: ``python docs/make_unrolling.py``."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from rolls import PIXEL_MM, Roll  # noqa: E402

from operandi import find_regions, follow_winding, unroll  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "unrolling.png"
ROLL = Roll(bend=(0.9, 0.25, 7.0), turns=5.5, x=205, y=193, agglomerate=(130, 245, 17))


def main() -> None:
    """Follow one roll, tell its regions, and draw both unrollings."""
    map_ = ROLL.map(noise=0.2)
    silicon, graphite = ROLL.phases(noise=0.05)
    winding = follow_winding(map_)
    regions = find_regions(winding, silicon=silicon, graphite=graphite)
    share = ROLL.share(winding.spiral.x, winding.spiral.y)
    off = np.angle(np.exp(2j * np.pi * share) / np.exp(2j * np.pi * share).mean()) / (2 * np.pi) * ROLL.pitch
    print(f"{winding.length:.2f} mm in {float(winding.curve()['turn'][-1]):.2f} turns; off the true spiral by {off.std():.2f} px r.m.s.")
    print(regions[["kind", "turn", "diameter", "length", "severity"]].to_dataframe().to_string())
    _draw(map_, silicon, winding, regions)


def _draw(map_, silicon, winding, regions) -> None:
    figure = plt.figure(figsize=(13, 7.6), layout="constrained")
    axes = figure.subplot_mosaic([["map", "regions", "polar"], ["straight"] * 3, ["silicon"] * 3], height_ratios=[3.4, 1, 1])
    half = map_["x"][-1].item() + PIXEL_MM / 2
    square = {"origin": "lower", "extent": (-half, half, -half, half), "interpolation": "nearest"}
    axes["map"].imshow(map_, cmap="gray", vmin=-0.3, vmax=1.4, **square)
    curve = winding.curve()
    axes["map"].plot(curve["x"], curve["y"], color="#d55e00", lw=1)
    axes["map"].set_title("a roll, and the winding that was followed", fontsize=10)
    colours = ListedColormap(["white", "#9ecae1", "#e69f00", "#b2182b"])
    axes["regions"].imshow(regions["region"], cmap=colours, vmin=-0.5, vmax=3.5, **square)
    axes["regions"].set_title("normal (blue), bend (orange), agglomerate (red)", fontsize=10)
    for name in ("map", "regions"):
        axes[name].set(xlabel="x, mm", ylabel="y, mm")
    polar = unroll(map_, winding=winding, along="angle")
    axes["polar"].imshow(
        polar, cmap="gray", vmin=-0.3, vmax=1.4, aspect="auto", origin="lower", extent=(0, 360, 0, float(polar["depth"][-1]))
    )
    axes["polar"].set(xlabel="angle, °", ylabel="distance from the centre, mm")
    axes["polar"].set_title('along="angle"', fontsize=10)
    for name, values, limits in (("straight", map_, (-0.3, 1.4)), ("silicon", silicon, (0, 0.9))):
        straight = unroll(values, winding=winding)
        extent = (0, float(straight["arc"][-1]), *(1e3 * straight["depth"].to_numpy()[[0, -1]]))
        axes[name].imshow(
            straight,
            cmap="gray" if name == "straight" else "viridis",
            vmin=limits[0],
            vmax=limits[1],
            aspect="auto",
            origin="lower",
            extent=extent,
        )
        axes[name].set_ylabel("depth, µm")
    axes["straight"].set_title('along="electrode": straightened, and below it the silicon of the same roll', fontsize=10)
    axes["silicon"].set_xlabel("length along the electrode, mm")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()

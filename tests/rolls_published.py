"""Small results for the tests of figures: a roll at wide angles without noise to speak of, and one at small angles."""

from collections.abc import Iterator

import numpy as np

from operandi.nodes import ECHEM, ECHEM_COLUMNS, STEP_COLUMNS, STEPS, Array, Block, Closed, Container, Product, Rows, Table
from operandi.simulate.phantom import SPECIES, grid_mm, jelly_roll, species_maps
from operandi.simulate.reference import profiles

N, PITCH_MM = 61, 0.14
PLANE = {name: {"values": grid_mm(N, PITCH_MM).tolist(), "units": "mm"} for name in ("y", "x")}
SMALL = {"silicon": (0.025, 0.1)}
WIDE = {"graphite": (1.82, 1.90), "LiC12": (1.75, 1.80), "LiC6": (1.66, 1.73)}
ANODE = {"name": "anode", "red": ["graphite"], "green": ["LiC6"], "blue": ["LiC12"]}


def describe(windows: dict[str, tuple[float, float]], composites: list[dict]) -> dict:
    """Metadata of a result with these windows."""
    named = [
        {"phase": p, "q_min_inv_angstrom": low, "q_max_inv_angstrom": high, "background": "none"} for p, (low, high) in windows.items()
    ]
    return {"sample": {"name": "cell-17"}, "experiment": {"windows": named, "composites": composites}}


def roll(windows: dict[str, tuple[float, float]], q: np.ndarray, charges_mah: tuple[float, ...], *, log: bool = True) -> Iterator[Product]:
    """A result of a simulated roll, a frame for each charge: volumes, maps with their sigma, sinograms, and the log."""
    phases, kinds = list(windows), {"str": "", "float64": np.nan, "int64": 0}
    plane = {"phase": {"values": phases}, **PLANE}
    yield Table(STEPS, STEP_COLUMNS, "step")
    yield Table(ECHEM, ECHEM_COLUMNS, "time")
    yield Container(("maps",), {}, ("composite",))
    for name in ("intensity", "sigma"):
        yield Array(("maps", name), ("frame", "phase", "y", "x"), (0, len(phases), N, N), (1, len(phases), N, N),
                    metadata={"units": "counts/mm 1/angstrom", "coords": plane})  # fmt: skip
    axes = {"q": {"values": q.tolist(), "units": "1/angstrom"}}
    yield Array(("volumes", "intensity"), ("frame", "y", "x", "q"), (0, N, N, q.size), (1, N, N, q.size),
                metadata={"units": "counts/mm", "coords": PLANE | axes})  # fmt: skip
    cell, shapes = jelly_roll(N, PITCH_MM), profiles(q)[:, :-1].T
    if windows is SMALL:
        shapes = np.where(np.char.startswith(SPECIES, "silicon")[:, None], shapes, 0)  # nothing else scatters there
    for frame, charge in enumerate(charges_mah):
        rng = np.random.default_rng(frame)
        clean = np.moveaxis(species_maps(cell, charge), 0, -1) @ shapes
        volume = (clean + rng.normal(0, 0.01, clean.shape) * clean.max(axis=(0, 1))).astype(np.float32)
        maps = np.stack([volume[..., (q >= low) & (q <= high)].sum(axis=-1) * np.diff(q)[0] for low, high in windows.values()])
        yield Block(("volumes", "intensity"), (frame, 0, 0, 0), volume[None])
        yield Block(("maps", "intensity"), (frame, 0, 0, 0), maps[None])
        yield Block(("maps", "sigma"), (frame, 0, 0, 0), np.full_like(maps, 0.01 * maps.max())[None])
        known = {"step": frame, "frame": frame, "t_start": 1.7e9 + 720 * frame, "t_end": 1.7e9 + 720 * (frame + 2), "phase": "charge"}
        known |= {"q_mah": charge, "voltage": 3.5 + 0.02 * charge} if log else {}
        row = {name: np.array([known.get(name, kinds[k])], object if k == "str" else k) for name, k in STEP_COLUMNS.items()}
        yield Rows(STEPS, row)
    if log:
        time = 1.7e9 + 60.0 * np.arange(30)
        values = {"time": time, "voltage": np.linspace(3.5, 4.1, 30), "current": np.full(30, 20.0), "charge": np.linspace(0, 28, 30)}
        yield Rows(ECHEM, values | {"step": np.zeros(30, np.int64), "cycle": np.zeros(30, np.int64)})
    yield Closed({"status": "complete"})

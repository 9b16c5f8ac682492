"""A small result with every kind of product, for the tests of what publishes and what reads."""

from collections.abc import Iterator

import numpy as np

from operandi.nodes import (
    ECHEM,
    ECHEM_COLUMNS,
    LEDGER,
    LEDGER_COLUMNS,
    STEP_COLUMNS,
    STEPS,
    WINDOWS,
    WINDOWS_MIMETYPE,
    Array,
    Block,
    Closed,
    Container,
    Lazy,
    Product,
    Rows,
    Table,
)

FRAMES, NY, NX, NQ, IMAGES = 4, 6, 5, 7, 12
X = [-1.0, -0.5, 0.0, 0.5, 1.0]
Y = [-1.25, -0.75, -0.25, 0.25, 0.75, 1.25]
Q = np.linspace(1.5, 5.0, NQ).tolist()
PLANE = {"y": {"values": Y, "units": "mm"}, "x": {"values": X, "units": "mm"}}
QS = {"q": {"values": Q, "units": "1/angstrom"}}
DSTAR = {"value": "float32", "sigma": "float32", "slope": "float32", "reason": "uint8"}
TAGS = [5.74, 10.72, 14.82, 17.82]
RANGES = [(0.0, 11.49), (6.08, 15.36), (11.49, 18.14), (15.36, 20.28)]


def values(path: tuple[str, ...], number: int, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """What is published at ``path`` for frame or set ``number``: noise, and a corner that was not measured."""
    rng = np.random.default_rng([number, *"/".join(path).encode()])
    data = (255 * rng.random(shape)).astype(dtype)
    if data.dtype.kind == "f":
        data[..., 0] = np.nan
    return data


def step(number: int) -> Rows:
    """The row that commits frame ``number``."""
    blank = {"str": f"ruhig, σ={number}", "float64": np.nan, "int64": number}
    row = {name: blank[kind] for name, kind in STEP_COLUMNS.items()}
    row |= {"t_start": 1.7e9 + 720.0 * number, "t_end": 1.7e9 + 720.0 * number + 1440.1, "phase": "charge"}
    row |= {"q_mah": TAGS[number], "q_start_mah": RANGES[number][0], "q_end_mah": RANGES[number][1]}
    return Rows(STEPS, {name: np.array([row[name]], object if kind == "str" else kind) for name, kind in STEP_COLUMNS.items()})


def tree() -> Iterator[Product]:
    """Declarations."""
    yield Table(STEPS, STEP_COLUMNS, "step", {"units": {"q_mah": "mAh"}})
    yield Table(LEDGER, LEDGER_COLUMNS, "entry")
    yield Table(ECHEM, ECHEM_COLUMNS, "time")
    yield Container(("maps",), {"windows": ["Al", "Cu"]}, ("composite",))
    for name in ("intensity", "sigma"):
        yield Array(("maps", name), ("frame", "phase", "y", "x"), (0, 2, NY, NX), (1, 2, NY, NX),
                    metadata={"units": "counts/mm/angstrom", "coords": {"phase": {"values": ["Al", "Cu"]}, **PLANE}})  # fmt: skip
        yield Array(("patterns", name), ("image", "q"), (0, NQ), (3, NQ), metadata={"units": "counts", "coords": QS})
    yield Container(("dstar",), {"reasons": ["", "one slope", "not measured"]})
    for name, dtype in DSTAR.items():
        yield Array(("dstar", name), ("frame", "y", "x"), (0, NY, NX), (1, NY, NX), dtype, 0, metadata={"units": "nm", "coords": PLANE})
    for name in ("time", "rotation", "charge"):
        yield Array(("patterns", name), ("image",), (0,), (3,), "float64", metadata={"units": "s"})
    yield Array(("volumes", "intensity"), ("frame", "y", "x", "q"), (0, NY, NX, NQ), (1, 4, 4, NQ), metadata={"coords": {**PLANE, **QS}})
    windows = [{"phase": "Al", "q_min_inv_angstrom": 2.0, "q_max_inv_angstrom": 3.5, "background": "none"}]
    yield Lazy(WINDOWS, WINDOWS_MIMETYPE, (("volumes", "intensity"),),
               {"units": "counts/mm/angstrom", "coords": {**PLANE, **QS}, "windows": windows})  # fmt: skip
    yield Array(("composites", "rgb"), ("frame", "composite", "y", "x", "rgb"), (0, 1, NY, NX, 3), (1, 1, NY, NX, 3), "uint8", 0)


def frame(number: int) -> Iterator[Product]:
    """Everything of one frame, its row last."""
    images = IMAGES // FRAMES
    for name in ("intensity", "sigma"):
        path = ("patterns", name)
        yield Block(path, (number * images, 0), values(path, number, (images, NQ)))
    for name in ("time", "rotation", "charge"):
        yield Block(("patterns", name), (number * images,), values(("patterns", name), number, (images,), "float64"))
    entries = np.arange(number * images, (number + 1) * images)
    yield Rows(LEDGER, {"entry": entries, "set": entries // 3, "stream": np.full(images, "primary"), "seq_num": entries + 1,
                        "status": np.full(images, "admitted"), "reason": np.array(["", "a 'quoted' \"reason\"; --", "\n"])})  # fmt: skip
    times = 1.7e9 + np.arange(3) / 3 + number
    yield Rows(ECHEM, {"time": times, "voltage": np.full(3, np.nan), "current": np.array([0.0, -0.0, 1e-300]), "charge": times,
                       "step": np.zeros(3, np.int64), "cycle": np.zeros(3, np.int64)})  # fmt: skip
    path = ("sinograms", f"{number:04d}")
    coords = {"rotation": {"values": [0.0, 90.0], "units": "deg"}, "translation": {"values": X, "units": "mm"}, **QS}
    yield Array(path, ("rotation", "translation", "q"), (2, NX, NQ), (2, NX, NQ), metadata={"coords": coords, "axis_mm": 0.01})
    yield Block(path, (0, 0, 0), values(path, number, (2, NX, NQ)))
    for path, shape, dtype in (
        (("volumes", "intensity"), (1, NY, NX, NQ), "float32"),
        (("maps", "intensity"), (1, 2, NY, NX), "float32"),
        (("maps", "sigma"), (1, 2, NY, NX), "float32"),
        (("composites", "rgb"), (1, 1, NY, NX, 3), "uint8"),
    ):
        yield Block(path, (number, *(0 for _ in shape[1:])), values(path, number, shape, dtype))
    for name, dtype in DSTAR.items():
        path = ("dstar", name)
        data = values(path, number, (1, NY, NX), dtype)
        yield Block(path, (number, 0, 0), data % 3 if name == "reason" else data)
    yield step(number)


def everything(frames: int = FRAMES) -> Iterator[Product]:
    """A whole result."""
    yield from tree()
    for number in range(frames):
        yield from frame(number)
    yield Closed({"status": "complete"})

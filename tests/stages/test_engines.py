import numpy as np
import pytest
import xarray as xr
from analytic import Spot

from operandi.errors import MissingBackendError, ShapeError
from operandi.stages import engines
from operandi.stages.reconstruction import reconstruct
from operandi.stages.volumes import grid_mm

PITCH, N, AXIS = 0.05, 61, 2.0
TRANSLATION = AXIS + (np.arange(N) - 30) * PITCH
ANGLE = np.arange(90) * 2.0
SPOTS = (Spot(0.3, -0.4, 0.15, 3.0), Spot(-0.25, 0.2, 0.45, 2.0, disc=True))
FINE = (np.repeat(grid_mm(TRANSLATION), 9).reshape(N, 9) + PITCH * (np.arange(9) - 4) / 9).ravel()
TRUTH = sum(s.image(FINE) for s in SPOTS).reshape(N, 9, N, 9).mean(axis=(1, 3))
"""Averages over voxels."""
BOUNDS = {"fbp": 0.17, "sirt": 0.22, "cgls": 0.17, "mlem": 0.17, "tv": 0.17}
"""Of the error against the truth, most of it at the disc's sharp edge."""


def labelled(axis_mm: float = AXIS, rotation: np.ndarray = ANGLE) -> xr.DataArray:
    values = sum(s.project(rotation, TRANSLATION, axis_mm) for s in SPOTS)
    return xr.DataArray(values, {"rotation": rotation, "translation": TRANSLATION}, ("rotation", "translation"))


def needs(engine: str) -> None:
    if engine == "tomopy":
        pytest.importorskip("tomopy", reason="tomopy is not installed (conda-forge only)")
    elif engine != "native":
        astra = pytest.importorskip("astra", reason="the astra toolbox is not installed")
        if engine == "astra-cuda" and not astra.use_cuda():
            pytest.skip("astra finds no CUDA on this machine")


def by(engine: str, method: str, data: xr.DataArray, axis_mm: float = AXIS, **options) -> np.ndarray:
    return reconstruct(data, axis=axis_mm, method=method, engine=engine, **options)["intensity"].to_numpy()  # type: ignore[arg-type]


def nrmse(found: np.ndarray, truth: np.ndarray = TRUTH) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2) / np.mean(truth**2)))


ALL = [("native", method) for method in BOUNDS] + [(engine, method) for engine, methods in engines.METHODS.items() for method in methods]


@pytest.mark.parametrize(("engine", "method"), ALL)
def test_every_engine_and_method_finds_the_phantom(engine: str, method: str):
    needs(engine)
    assert nrmse(by(engine, method, labelled())) < BOUNDS[method]


@pytest.mark.parametrize(("engine", "method"), [pair for pair in ALL if pair[0] != "native"])
def test_every_engine_finds_the_phantom_about_an_axis_off_the_middle(engine: str, method: str):
    needs(engine)
    axis = AXIS + 2.3 * PITCH
    assert nrmse(by(engine, method, labelled(axis), axis)) < 1.1 * BOUNDS[method]


@pytest.mark.parametrize(("method", "iterations"), [("sirt", 50), ("cgls", 15)])
def test_iterative_methods_are_astras_with_its_strip_model(method: str, iterations: int):
    needs("astra")
    ours = by("native", method, labelled(), iterations=iterations, tolerance=0.0)
    theirs = by("astra", method, labelled(), iterations=iterations)
    assert nrmse(ours, theirs) < 0.02
    assert nrmse(ours) < 1.05 * nrmse(theirs)


def test_astra_keeps_sirt_from_being_negative():
    needs("astra")
    assert by("astra", "sirt", labelled(), nonnegative=True).min() >= 0 > by("astra", "sirt", labelled()).min()


@pytest.mark.parametrize(("engine", "package"), [("astra", "astra"), ("astra-cuda", "astra"), ("tomopy", "tomopy")])
def test_an_engine_that_is_not_installed_says_how_to_get_it(engine: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingBackendError, match=f"(?s)'{engine}'.*install.*engine='native'"):
        by(engine, "sirt", labelled())


def test_without_cuda_its_engine_says_so():
    astra = pytest.importorskip("astra")
    if astra.use_cuda():
        pytest.skip("this machine has CUDA")
    with pytest.raises(MissingBackendError, match="no CUDA"):
        by("astra-cuda", "sirt", labelled())


@pytest.mark.parametrize(
    ("engine", "method", "options", "words"),
    [
        ("astra", "mlem", {}, "has no mlem"),
        ("tomopy", "cgls", {}, "has no cgls"),
        ("astra", "tv", {}, "has no tv"),
        ("astra", "cgls", {"nonnegative": True}, "cgls"),
        ("tomopy", "sirt", {"nonnegative": True}, "negative"),
        ("astra", "sirt", {"sigma": labelled(), "bootstrap": 3}, "no sigma"),
        ("astra", "sirt", {"iterations": 0}, "at least 1"),
        ("scikit", "fbp", {}, "engines: native, astra"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(engine: str, method: str, options: dict, words: str):
    with pytest.raises(ShapeError, match=words):
        by(engine, method, labelled(), **options)


@pytest.mark.parametrize("method", engines.METHODS["astra"])
def test_a_sinogram_without_a_usable_projection_is_nan_for_a_peer(method: str):
    needs("astra")
    assert np.isnan(by("astra", method, labelled() * np.nan)).all()


class _Tomopy:
    """A TomoPy that tells how it is called, by its documented signature."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def recon(self, tomo, theta, center=None, sinogram_order=False, algorithm=None, init_recon=None, ncore=None, nchunk=None, **kwargs):
        self.calls.append({"shape": tomo.shape, "theta": theta, "center": center, "algorithm": algorithm, **kwargs})
        assert sinogram_order
        found = np.zeros((tomo.shape[0], tomo.shape[2], tomo.shape[2]), np.float32)
        found[:, tomo.shape[2] // 2 - 5, tomo.shape[2] // 2 + 3] = 1.0  # five rows above the middle: at positive y
        return found


def test_tomopy_is_called_as_documented_and_its_first_row_is_at_the_largest_y(monkeypatch: pytest.MonkeyPatch):
    fake = _Tomopy()
    monkeypatch.setitem(__import__("sys").modules, "tomopy", fake)
    for method in engines.METHODS["tomopy"]:
        found = by("tomopy", method, labelled(), filter="shepp-logan", **({} if method == "fbp" else {"iterations": 7}))
        assert [int(i[0]) - 30 for i in np.nonzero(found)] == [5, 3]
        assert found.max() == pytest.approx(1 / PITCH)
    gridrec, sirt, mlem = fake.calls
    assert (gridrec["algorithm"], gridrec["filter_name"], gridrec["shape"][1:]) == ("gridrec", "shepp", (90, 121))
    assert (sirt["algorithm"], sirt["num_iter"], mlem["algorithm"]) == ("sirt", 7, "mlem")
    assert [c["center"] for c in fake.calls] == pytest.approx([60, 30, 30])
    np.testing.assert_allclose(sirt["theta"], np.deg2rad(ANGLE))

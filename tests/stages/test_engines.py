import numpy as np
import pytest
import xarray as xr
from analytic import Spot
from scipy.ndimage import gaussian_filter

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
BEAM = (TRANSLATION[:, None] + PITCH * (np.arange(5) - 2) / 5).ravel()
"""A beam as wide as its step."""
METHODS = ("fbp", "sirt", "cgls", "mlem", "tv")


def labelled(axis_mm: float = AXIS, rotation: np.ndarray = ANGLE) -> xr.DataArray:
    values = sum(s.project(rotation, BEAM, axis_mm) for s in SPOTS).reshape(-1, N, 5).mean(axis=2)
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


TWO_VOXELS = nrmse(gaussian_filter(TRUTH, 0.85))
"""The error of the truth at a resolution (full width at half maximum) of two voxels: what a beam of one step can be asked for."""


def bound(engine: str, method: str) -> float:
    return TWO_VOXELS + 0.1 * ((engine, method) == ("tomopy", "fbp"))  # gridrec gives values about a tenth too large


ALL = [("native", method) for method in METHODS] + [(engine, method) for engine, methods in engines.METHODS.items() for method in methods]


@pytest.mark.parametrize(("engine", "method"), ALL)
def test_every_engine_and_method_finds_the_phantom(engine: str, method: str):
    needs(engine)
    assert nrmse(by(engine, method, labelled())) < bound(engine, method)


@pytest.mark.parametrize(("engine", "method"), [pair for pair in ALL if pair[0] != "native"])
def test_every_engine_finds_the_phantom_about_an_axis_off_the_middle(engine: str, method: str):
    needs(engine)
    axis = AXIS + 2.3 * PITCH
    assert nrmse(by(engine, method, labelled(axis), axis)) < 1.1 * bound(engine, method)


def test_sirt_is_astras_with_its_strip_model():
    needs("astra")
    ours, theirs = by("native", "sirt", labelled(), iterations=50, tolerance=0.0), by("astra", "sirt", labelled(), iterations=50)
    assert nrmse(ours, theirs) < 1e-4


@pytest.mark.parametrize("iterations", [5, 15])
def test_cgls_is_nearer_than_astras_to_the_method_in_double_precision(iterations: int):
    """Rounding makes conjugate gradients fall behind: after 15 iterations astra's stand where 13 exact ones do."""
    needs("astra")
    values = labelled().to_numpy().ravel()
    matrix = strips()
    x, left, gradient = np.zeros(N * N), values.copy(), matrix.T @ values
    direction, norm = gradient.copy(), gradient @ gradient
    for _ in range(iterations):
        along = matrix @ direction
        step = norm / (along @ along)
        x, left = x + step * direction, left - step * along
        gradient = matrix.T @ left
        before, norm = norm, gradient @ gradient
        direction = gradient + norm / before * direction
    exact = x.reshape(N, N)[::-1] / PITCH
    ours, theirs = (by(e, "cgls", labelled(), iterations=iterations, **o) for e, o in (("native", {"tolerance": 0.0}), ("astra", {})))
    assert nrmse(ours, exact) < 0.02
    assert nrmse(ours, exact) < 1.1 * nrmse(theirs, exact)


def strips():
    """Astra's strip model as a sparse matrix (rotation · translation, row · column)."""
    astra = pytest.importorskip("astra")
    geometry = astra.create_proj_geom("parallel", 1.0, N, np.deg2rad(ANGLE))
    projector = astra.create_projector("strip", geometry, astra.create_vol_geom(N, N))
    identifier = astra.projector.matrix(projector)
    matrix = astra.matrix.get(identifier).astype(float)
    astra.matrix.delete(identifier)
    astra.projector.delete(projector)
    return matrix


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
    """A TomoPy that tells how it is called, and puts a voxel at x = 3, y = 5 steps as libtomo does.

    gridrec has the axis in column ceil(n / 2) and, its rows being turned over, in row n - 1 - ceil(n / 2).
    """

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def recon(self, tomo, theta, center=None, sinogram_order=False, algorithm=None, init_recon=None, ncore=None, nchunk=None, **kwargs):
        self.calls.append({"shape": tomo.shape, "theta": theta, "center": center, "algorithm": algorithm, **kwargs})
        assert sinogram_order
        n = tomo.shape[2]
        axis = (n + 1) // 2 if algorithm == "gridrec" else n // 2
        found = np.zeros((tomo.shape[0], n, n), np.float32)
        found[:, n - 1 - axis - 5, axis + 3] = 1.0
        return found


def test_tomopy_is_called_as_documented_and_its_axis_and_first_row_are_found(monkeypatch: pytest.MonkeyPatch):
    fake = _Tomopy()
    monkeypatch.setitem(__import__("sys").modules, "tomopy", fake)
    for method in engines.METHODS["tomopy"]:
        found = by("tomopy", method, labelled(), filter="shepp-logan", **({} if method == "fbp" else {"iterations": 7}))
        assert [int(i[0]) - 30 for i in np.nonzero(found)] == [5, 3]
        assert found.max() == pytest.approx(1 / PITCH)
    gridrec, sirt, mlem = fake.calls
    assert (gridrec["algorithm"], gridrec["filter_name"], gridrec["shape"][1:]) == ("gridrec", "shepp", (90, 121))
    assert (sirt["algorithm"], sirt["num_iter"], mlem["algorithm"]) == ("sirt", 7, "mlem")
    assert [c["center"] for c in fake.calls] == pytest.approx([60, 30.5, 30.5])  # the iterative ones count from the sample's edge
    np.testing.assert_allclose(sirt["theta"], np.deg2rad(ANGLE))


@pytest.mark.parametrize("method", engines.METHODS["tomopy"])
@pytest.mark.parametrize("n", [40, 41])
def test_tomopy_puts_a_spot_where_it_is(method: str, n: int):
    needs("tomopy")
    translation = AXIS + (np.arange(n) - (n - 1) / 2) * PITCH
    spot, axis, grid = Spot(0.2, -0.35, 0.12, 3.0), AXIS + 1.3 * PITCH, grid_mm(translation)
    data = xr.DataArray(
        spot.project(ANGLE, translation, axis), {"rotation": ANGLE, "translation": translation}, ("rotation", "translation")
    )
    found = by("tomopy", method, data, axis)
    found = np.where(found > 0.3 * found.max(), found, 0)
    assert (found * grid[None]).sum() / found.sum() == pytest.approx(spot.x, abs=0.1 * PITCH)
    assert (found * grid[:, None]).sum() / found.sum() == pytest.approx(spot.y, abs=0.1 * PITCH)

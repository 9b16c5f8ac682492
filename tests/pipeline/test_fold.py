"""The fold: whatever the order and the gaps, what is committed follows from the exposures alone."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr

from operandi import pipeline
from operandi.experiment import Experiment
from operandi.nodes import LEDGER, PROVISIONAL, STEPS, Array, Block, Product, Rows
from operandi.pipeline import Event, Images, Positions, Refusal, RunEnded, fold
from operandi.pipeline.sets import SetBuffer
from operandi.pipeline.tomograms import volume_of
from operandi.stages import scans
from operandi.stages.maps import screen
from operandi.stages.patterns import Patterns
from operandi.stages.reconstruction import reconstruct

SETS, ROTATIONS, TRANSLATIONS, BINS = 3, 6, 11, 40
PER_SET = ROTATIONS * TRANSLATIONS
Q = np.linspace(1.0, 3.0, BINS)


class Given:
    """An integrator that takes the images for patterns: the counts of one row of pixels, one for each bin."""

    q, shape, correlation = Q, (1, BINS), None

    def __call__(self, images: np.ndarray) -> Patterns:
        values = images[:, 0].astype(np.float32)
        return Patterns(values, np.sqrt(np.maximum(values, 1)), np.ones_like(values))


def experiment() -> Experiment:
    return Experiment.model_validate(
        {
            "sample": {"name": "disc"},
            "geometry": {"poni": "none.poni"},
            "integration": {"q_min_inv_angstrom": 1.0, "q_max_inv_angstrom": 3.0},
            "scan": {
                "sets": SETS, "rotations_per_set": ROTATIONS, "translations": TRANSLATIONS,
                "translation_start_mm": -1.0, "translation_stop_mm": 1.0, "exposure_s": 1.0, "interlaces": 2,
            },
            "reconstruction": {"axis_mm": 0.05},
            "windows": [{"phase": "a", "q_min_inv_angstrom": 1.4, "q_max_inv_angstrom": 1.6}],
            "composites": [],
        }
    )  # fmt: skip


def exposures(seq_num: np.ndarray, *, seed: int = 0) -> Images:
    """A disc with one line in its pattern, at the planned places."""
    scan = experiment().scan
    number, index = scans.set_and_index(scan, seq_num)
    routes = [scans.route(scan, n) for n in range(SETS)]
    rotation = np.array([routes[n].rotation_deg[i] for n, i in zip(number, index, strict=True)])
    translation = np.array([routes[n].translation_mm[i] for n, i in zip(number, index, strict=True)])
    way = np.sqrt(np.clip(1 - ((translation - 0.05 - 0.2 * np.cos(np.deg2rad(rotation))) / 0.5) ** 2, 0, None))
    mean = 5 + np.outer(way, 100 * np.exp(-(((Q - 1.5) / 0.05) ** 2)) + 20)
    rows = [np.random.default_rng([seed, n]).poisson(m) for n, m in zip(seq_num, mean, strict=True)]
    positions = Positions(rotation, translation, np.full(len(seq_num), 7.0), 1.7e9 + seq_num.astype(float))
    return Images(np.asarray(seq_num), np.stack(rows)[:, None, :], positions)


def everything(block: int = 7) -> Iterator[Event]:
    for first in range(1, SETS * PER_SET + 1, block):
        yield exposures(np.arange(first, min(first + block, SETS * PER_SET + 1)))


class Published:
    """What came out: arrays as the store would hold them, and the rows of tables."""

    def __init__(self, *events: Event) -> None:
        self.arrays: dict[tuple[str, ...], np.ndarray] = {}
        self.rows: dict[tuple[str, ...], list[Rows]] = {STEPS: [], LEDGER: []}
        self.order: list[tuple[str, ...]] = []
        self.state, products = pipeline.begin(experiment(), Given())  # pyright: ignore[reportArgumentType]
        self.take(products)
        for event in events:
            self.take(pipeline.step(self.state, event))

    def take(self, products: Iterator[Product] | list[Product]) -> None:
        for product in products:
            if isinstance(product, Array):
                self.arrays[product.path] = np.full(product.shape, product.fill, product.dtype)
            elif isinstance(product, Block):
                self._write(product)
                self.order.append(product.path)
            elif isinstance(product, Rows):
                self.rows.setdefault(product.path, []).append(product)

    def _write(self, block: Block) -> None:
        there = self.arrays[block.path]
        stop = [o + n for o, n in zip(block.offset, block.data.shape, strict=True)]
        if stop[0] > there.shape[0]:
            grown = np.full((stop[0] - there.shape[0], *there.shape[1:]), np.nan if there.dtype.kind == "f" else 0, there.dtype)
            there = self.arrays[block.path] = np.concatenate([there, grown])
        there[tuple(slice(o, s) for o, s in zip(block.offset, stop, strict=True))] = block.data

    @property
    def frames(self) -> list[int]:
        return [int(rows.columns["frame"][0]) for rows in self.rows[STEPS]]


def same(one: Published, other: Published) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for path, values in one.arrays.items():
        np.testing.assert_array_equal(values, other.arrays[path], err_msg="/".join(path))


@pytest.fixture(scope="module")
def whole() -> Published:
    return Published(*everything(), RunEnded("success"))


def test_a_frame_is_committed_with_the_last_exposure_of_its_window_not_with_the_first_of_the_next():
    published = Published(*(exposures(np.arange(first, first + 6)) for first in range(1, 2 * PER_SET, 6)))
    assert published.frames == [0]


def test_maps_are_there_and_told_of_before_the_volume_is_made_and_the_frame_is_committed_after_it(monkeypatch):
    happened: list[tuple[str, ...]] = []

    def noted(*arguments):
        happened.append(("made",))
        return volume_of(*arguments)

    monkeypatch.setattr(fold, "volume_of", noted)
    state, _ = pipeline.begin(experiment(), Given())  # pyright: ignore[reportArgumentType]
    for product in pipeline.step(state, exposures(np.arange(1, 2 * PER_SET + 1))):
        happened.append(product.path)  # noqa: PERF401  # pyright: ignore[reportAttributeAccessIssue]
    order = (("maps", "sigma"), PROVISIONAL, ("made",), ("volumes", "intensity"), ("sinograms", "0000"), STEPS)
    places = [happened.index(one) for one in order]
    assert places == sorted(places)


def test_how_exposures_are_bundled_changes_nothing(whole):
    same(whole, Published(*everything(1), RunEnded("success")))
    same(whole, Published(*everything(100), RunEnded("success")))


def test_patterns_are_published_line_by_line_as_they_were_measured(whole):
    first_line = Published(exposures(np.arange(1, TRANSLATIONS + 1)))
    np.testing.assert_array_equal(
        first_line.arrays["patterns", "intensity"][:TRANSLATIONS], whole.arrays["patterns", "intensity"][:TRANSLATIONS]
    )
    counts = exposures(np.arange(1, SETS * PER_SET + 1)).images[:, 0]
    np.testing.assert_array_equal(whole.arrays["patterns", "intensity"], counts)
    np.testing.assert_allclose(whole.arrays["patterns", "sigma"], np.sqrt(np.maximum(counts, 1)), rtol=1e-6)


def test_a_frame_is_what_reconstruct_and_screen_make_of_its_published_sinogram(whole):
    for frame in whole.frames:
        span = scans.spans(experiment().scan)[frame]
        rotation = np.sort(np.concatenate([scans.planned_rotations_deg(experiment().scan, n) for n in span.sets]))
        coords = {"rotation": rotation, "translation": scans.translations_mm(experiment().scan), "q": Q}
        sinogram = xr.DataArray(whole.arrays["sinograms", f"{frame:04d}"], coords, ("rotation", "translation", "q"))
        volume = reconstruct(sinogram, axis=0.05)
        scale = float(np.abs(volume["intensity"]).max())
        np.testing.assert_allclose(whole.arrays["volumes", "intensity"][frame], volume["intensity"], atol=1e-5 * scale)
        maps = screen(volume, experiment().windows)
        np.testing.assert_allclose(whole.arrays["maps", "intensity"][frame], maps["intensity"], atol=1e-5 * scale)


def test_sigma_of_the_maps_is_the_scatter_of_their_noise(whole):
    maps = [
        Published(exposures(np.arange(1, 2 * PER_SET + 1), seed=seed)).arrays["maps", "intensity"][0] for seed in range(60)
    ]  # fmt: skip
    ratio = np.std(maps, axis=0) / whole.arrays["maps", "sigma"][0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.08)  # 60 realisations: 9 % each, 121 voxels


def test_an_exposure_that_is_repeated_within_its_set_counts_the_last_time(whole):
    wrong = exposures(np.arange(3, 6), seed=1)
    repeated = exposures(np.arange(3, 6))
    rest = [exposures(np.arange(1, 3)), exposures(np.arange(6, SETS * PER_SET + 1))]
    same(whole, Published(wrong, repeated, *rest, RunEnded("success")))


def test_an_exposure_that_is_repeated_after_its_set_was_complete_is_refused_and_named(whole):
    again = exposures(np.arange(5, 7), seed=1)
    published = Published(*everything(), again, RunEnded("success"))
    same(whole, published)
    reasons = published.rows[LEDGER][-1].columns
    assert reasons["seq_num"].tolist() == [5, 6]
    assert "repeated after its set 0 was closed" in reasons["reason"][0]


def test_refused_exposures_settle_a_set_and_stay_empty():
    refused = Refusal(TRANSLATIONS, "cut")
    published = Published(exposures(np.arange(1, TRANSLATIONS)), refused, exposures(np.arange(TRANSLATIONS + 1, 2 * PER_SET + 1)))
    assert published.frames == [0]
    assert np.isnan(published.arrays["patterns", "intensity"][TRANSLATIONS - 1]).all()
    assert published.rows[LEDGER][0].columns["status"].tolist().count("refused") == 1


def test_the_ledger_has_every_exposure_of_an_aborted_run():
    published = Published(exposures(np.arange(1, PER_SET + 4)), RunEnded("abort", "beam lost"))
    status = np.concatenate([rows.columns["status"] for rows in published.rows[LEDGER]]).tolist()
    assert (status.count("admitted"), status.count("missing")) == (PER_SET + 3, (SETS - 1) * PER_SET - 3)


def test_lines_are_sent_once_they_are_settled_and_again_when_they_change():
    buffer = SetBuffer.empty(0, 2, 3, 1)
    one = exposures(np.arange(1, 4))
    buffer.admit(np.arange(3), Patterns(*np.ones((3, 3, 1))), one.positions)
    assert buffer.take_unsent(settled=True) == [0]
    assert buffer.take_unsent(settled=True) == []
    buffer.refuse(1, "cut")
    assert buffer.take_unsent(settled=True) == [0]
    assert buffer.take_unsent(settled=False) == [1]


MEMORY = """
import resource, sys
import numpy as np
sys.path[:0] = {paths!r}
import test_fold as t
from operandi import pipeline
from operandi.pipeline import Images, Positions
from operandi.stages import scans, volumes

t.Q = np.linspace(1.0, 3.0, {bins})
t.Given.q, t.Given.shape = t.Q, (1, {bins})
content = t.experiment().model_dump()
content["scan"] |= {{"rotations_per_set": {rotations}, "translations": {translations}, "sets": 2}}
experiment = t.Experiment.model_validate(content)
volumes.warm_up()
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
state, products = pipeline.begin(experiment, t.Given())
list(products)
before = peak()
route = [scans.route(experiment.scan, n) for n in (0, 1)]
per_set = scans.images_per_set(experiment.scan)
frames = 0
for first in range(0, 2 * per_set, 32):
    seq = np.arange(first, min(first + 32, 2 * per_set))
    at = [(route[n // per_set], n % per_set) for n in seq]
    positions = Positions(*(np.array([getattr(r, name)[i] for r, i in at]) for name in ("rotation_deg", "translation_mm")),
                          np.ones(len(seq)), seq.astype(float))
    images = np.random.default_rng(first).integers(1, 9, (len(seq), 1, {bins}))
    for product in pipeline.step(state, Images(seq + 1, images, positions)):
        frames += getattr(product, "path", None) == ("volumes", "intensity")
print(frames, (peak() - before) / (4 * {translations} ** 2 * {bins}))
"""


def test_a_worker_holds_less_than_two_and_a_half_volumes_above_its_own_size():
    """Two sets, of as many projections for each translation as L has: 360 for 401; L itself is measured by the benchmarks."""
    code = MEMORY.format(paths=[str(__file__).rsplit("/", 1)[0]], bins=1000, rotations=68, translations=151)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frames, volumes = done.stdout.split()
    assert frames == "1"
    assert float(volumes) < 2.5

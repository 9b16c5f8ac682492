"""Work in parts: each once, and where numba has to compile, one by itself first."""

import threading

import numba
import numpy as np
import pytest
from scipy import sparse

from operandi.kernels import units
from operandi.kernels.binning import Limits, bin_images, compile_operator
from operandi.kernels.clipping import clip_rings, compile_rings, find_medians
from operandi.kernels.corners import find_corners
from operandi.kernels.units import run_units
from operandi.sources.chunks import _decoder, _length_by_blocks


class Meeting:
    """Work that waits for a second unit at the same time, the first unit for so long; the units that met one, and all."""

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self.both, self.met, self.done = threading.Barrier(2), [], []

    def __call__(self, unit: int) -> None:
        try:
            self.both.wait(10.0 if unit else self.first_s)
            self.met.append(unit)
        except threading.BrokenBarrierError:
            self.both.reset()
        self.done.append(unit)


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="needs two threads")
def test_the_first_unit_of_compiled_code_is_done_before_any_other_and_each_once():
    first, again = Meeting(0.2), Meeting(10.0)
    run_units(first, 5, compiled="this test")
    assert first.done[0] == 0
    assert sorted(first.done) == [0, 1, 2, 3, 4]
    assert sorted(first.met) == [1, 2, 3, 4]
    run_units(again, 4, compiled="this test")
    assert sorted(again.met) == [0, 1, 2, 3]


def test_a_first_unit_that_fails_is_the_first_again():
    def fail(unit: int) -> None:
        raise ValueError(unit)

    for _ in range(2):
        with pytest.raises(ValueError, match="^0$"):
            run_units(fail, 3, compiled="what fails")


def average(images: np.ndarray) -> None:
    matrix, ones = sparse.csr_array(np.ones((2, 6))), np.ones(6)
    rings, limits = compile_rings(matrix, ones, 0 * ones), Limits(0, 100)
    bin_images(compile_operator(matrix, ones, 0 * ones), images, limits)
    clip_rings(rings, images, limits, model=1, threshold=3.0, rounds=2)
    find_medians(rings, images, limits)


@pytest.mark.parametrize("call", ["average", "corners"])
def test_what_threads_run_is_told_once_for_every_type(call, monkeypatch):
    """Else a second type would be compiled by several threads, or every call would begin alone."""
    kinds = set()
    monkeypatch.setattr(units, "_compiled", kinds)
    if call == "average":
        for n_kinds, kind in ((3, np.int32), (6, np.float32), (6, np.float32)):
            average(np.ones((3, 6), kind))
            assert len(kinds) == n_kinds
    else:
        x = np.linspace(1.0, -3.0, 40)
        for _ in range(2):
            find_corners(x, np.zeros((3, 40)), np.ones((3, 40)), (0, 10), (1.0, 4, 3.0, 0.2, 0.5))
            assert len(kinds) == 1


def test_the_length_of_a_chunk_is_compiled_before_threads_decode():
    assert _decoder() is not None
    before = list(_length_by_blocks.signatures)
    _length_by_blocks(np.frombuffer(bytes(16), np.uint8)[12:], 0, 0)
    assert list(_length_by_blocks.signatures) == before

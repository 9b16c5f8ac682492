"""Work in parts, done by several threads.

numba's own ``parallel=True`` takes 3 s more to compile for a kernel of many arrays. Here each part is a call
of compiled code that does not hold Python's lock.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from numba import get_num_threads


def run_units(work: Callable[[int], None], n_units: int, *, alone: bool = False) -> None:
    """Call ``work`` with 0 … n_units - 1, on as many threads as numba uses; raises what a call raises.

    ``alone``: on this thread only, as long as numba may have to compile: two threads that ask for the same code at once can fail.

    Threads end with the call (they take 0.1 ms to start), so that nothing is left that a forked process would wait for.
    """
    n_threads = 1 if alone else min(get_num_threads(), n_units)
    if n_threads < 2:
        for unit in range(n_units):
            work(unit)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(work, range(n_units)):
            pass

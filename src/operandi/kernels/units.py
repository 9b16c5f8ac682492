"""Work in parts, done by several threads.

numba's own ``parallel=True`` takes 3 s more to compile for a kernel of many arrays. Here each part is a call
of compiled code that does not hold Python's lock.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from numba import get_num_threads

_compiled: set[Hashable] = set()
"""What this process has called before."""


def run_units(work: Callable[[int], None], n_units: int, *, compiled: Hashable = None) -> None:
    """Call ``work`` with 0 … n_units - 1, on as many threads as numba uses; raises what a call raises.

    ``compiled`` names the numba code that ``work`` calls, and the types for which it is compiled; None calls none. At its first call
    the first unit is done before any other: two threads that ask numba for the same code at once can fail.

    Threads end with the call (they take 0.1 ms to start), so that nothing is left that a forked process would wait for.
    """
    first = 0
    if n_units and compiled is not None and compiled not in _compiled:
        work(0)
        _compiled.add(compiled)
        first = 1
    n_threads = min(get_num_threads(), n_units - first)
    if n_threads < 2:
        for unit in range(first, n_units):
            work(unit)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(work, range(first, n_units)):
            pass

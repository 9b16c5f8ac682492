"""Non-negative least squares of many rows that share one matrix: block principal pivoting, row by row.

Source of the method: Kim & Park 2011, 10.1137/110821172.
"""

import numpy as np
from numba import njit

TRIALS = 3
"""Exchanges of all wrong unknowns at once that may pass without fewer of them, before one is exchanged at a time."""
MOST_EXCHANGES = 1000


@njit(cache=True, nogil=True)
def _solve_held(gram, product, held, order, factor, x):
    """Write the unknowns that are held into ``x``, the others 0, by Cholesky's factorisation of their part of the matrix."""
    count = 0
    for i in range(product.size):
        x[i] = 0.0
        if held[i]:
            order[count] = i
            count += 1
    for i in range(count):
        for j in range(i + 1):
            total = gram[order[i], order[j]]
            for m in range(j):
                total -= factor[i, m] * factor[j, m]
            factor[i, j] = np.sqrt(max(total, 1e-300)) if i == j else total / factor[j, j]
    for i in range(count):
        total = product[order[i]]
        for m in range(i):
            total -= factor[i, m] * x[order[m]]
        x[order[i]] = total / factor[i, i]
    for i in range(count - 1, -1, -1):
        total = x[order[i]]
        for m in range(i + 1, count):
            total -= factor[m, i] * x[order[m]]
        x[order[i]] = total / factor[i, i]


@njit(cache=True, nogil=True)
def solve_rows(gram, products, tolerance, x):
    """Fill ``x`` (row, unknown) with the least squares of each row, none below 0, from AᵀA and Aᵀy (row, unknown).

    ``gram`` must be positive definite, with ones on its diagonal; ``tolerance`` is relative to a row's largest product.
    """
    k = gram.shape[0]
    held, wrong = np.zeros(k, np.bool_), np.zeros(k, np.bool_)
    order, factor = np.zeros(k, np.int64), np.zeros((k, k))
    for row in range(products.shape[0]):
        product, found = products[row], x[row]
        least = tolerance * np.abs(product).max()
        held[:] = False
        found[:] = 0.0
        fewest, trials = k + 1, TRIALS
        for _ in range(MOST_EXCHANGES):
            count = 0
            for i in range(k):
                if held[i]:
                    wrong[i] = found[i] < -least
                else:
                    slack = -product[i]
                    for j in range(k):
                        slack += gram[i, j] * found[j]
                    wrong[i] = slack < -least
                count += wrong[i]
            if count == 0:
                break
            if count < fewest:
                fewest, trials = count, TRIALS
            else:
                trials -= 1
            # Exchanging all of them may go round in circles; the last one alone never does.
            for i in range(k - 1, -1, -1):
                if wrong[i]:
                    held[i] = not held[i]
                    if trials < 0:
                        break
            _solve_held(gram, product, held, order, factor, found)
        for i in range(k):
            found[i] = max(found[i], 0.0)

"""The balance of lithium, drawn."""

import numpy as np
import pandas as pd
import pytest

from operandi.errors import NotPublishedError
from operandi.figures.lithium import draw_balance
from operandi.nodes import LITHIUM_COLUMNS


def table(residual: float = 0.5, reason: str = "") -> pd.DataFrame:
    columns = {name: [reason] * 3 if kind == "str" else np.arange(3.0) for name, kind in LITHIUM_COLUMNS.items()}
    return pd.DataFrame(columns | {"residual_mah": [0.0, residual, residual]})


def test_the_balance_shows_both_electrodes_and_what_is_in_neither():
    upper, lower = draw_balance(table()).axes
    legend = upper.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["charge", "left the oxide", "in the graphite"]
    points = np.array(lower.get_lines()[0].get_xydata(), float)
    np.testing.assert_allclose(points, [(0, 0), (1, 0.5), (2, 0.5)])


def test_a_balance_that_is_not_known_is_not_drawn_but_its_reason_told():
    unknown = table(np.nan, "lithium.oxide_mah is not given").assign(residual_mah=np.nan)
    with pytest.raises(NotPublishedError, match="oxide_mah is not given"):
        draw_balance(unknown)

"""What goes on beside the processing: the guardian, and where results go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from operandi.experiment.sections import Positive, Section


class Guardian(Section):
    """What the guardian watches while the run goes; null switches a rule off. Never part of a result's identity."""

    expected: Literal["protocol", "charge", "discharge", "any"] = "protocol"
    """What the cell should do. Protocol: each step goes on in the direction in which it began, and so it does after a rest."""
    accident_mah: Positive | None = 0.005
    """Charge that may go back before it counts as an accident."""
    wrong_current_ma: Positive | None = 0.2
    """Current against the direction, in two rows one after the other."""
    rest_ma: Positive = 0.05
    """Below this current the cell rests."""
    rest_drop_v: Positive | None = 0.15
    """Fall of the voltage at rest below that of the hold before it."""
    self_discharge_mv_h: Positive | None = 20.0
    """Fall of the voltage at rest, once it has relaxed."""
    relaxation_s: Annotated[float, Field(ge=0)] = 1800.0
    """Time that the voltage takes to relax after current has flowed."""
    self_discharge_window_s: Positive = 600.0
    """The rate is that between the means over two such times, one after the other."""
    voltage_min_v: float | None = 2.5
    """Lowest voltage allowed."""
    voltage_max_v: float | None = 4.25
    """Highest voltage allowed."""
    temperature_key: str | None = None
    """Data key of the cell's temperature, in °C or, where its units say so, in K; null where none is read."""
    temperature_stream: str | None = None
    """Stream of the run that holds temperature_key; null: that of the images."""
    temperature_min_c: float | None = 10.0
    """Lowest temperature allowed, where one is read."""
    temperature_max_c: float | None = 45.0
    """Highest temperature allowed, where one is read."""
    log_silent_s: Positive | None = 120.0
    """Time without a new row of the log while exposures, or the clock, go on."""
    detector_silent_s: Positive | None = 120.0
    """Time without an exposure while the log, or the clock, goes on."""
    beam_fraction: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    """Incident flux, as a share of its running median, below which the beam is lost in two exposures one after the other."""

    @model_validator(mode="after")
    def _ordered(self):
        for name, unit in (("voltage", "v"), ("temperature", "c")):
            low, high = getattr(self, f"{name}_min_{unit}"), getattr(self, f"{name}_max_{unit}")
            if low is not None and high is not None and high <= low:
                raise ValueError(f"{name}_max_{unit} must be above {name}_min_{unit}")
        return self


class Publishing(Section):
    """Where results go. Never part of a result's identity."""

    tiled: str = "http://127.0.0.1:8000"
    """The Tiled server."""
    storage: Path = Path("data")
    """Folder for arrays; the server must be able to read it."""
    journal: Path = Path("journal")
    """Folder of the documents that the RunEngine wrote."""
    state: Path = Path("state")
    """Folder of the worker's spool."""
    webhook: SecretStr | None = None
    """Address to which the guardian's events are posted as JSON while a run goes; null: nowhere."""

    @field_validator("webhook")
    @classmethod
    def _an_address(cls, address: SecretStr | None) -> SecretStr | None:
        # The address is a secret: the message must not show it.
        if address is not None and not re.fullmatch(r"https?://[^\s/]+\S*", address.get_secret_value()):
            raise ValueError("is no address of the web: write one that begins with https:// or http://")
        return address

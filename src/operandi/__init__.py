"""operandi: operando scattering tomography as a bluesky and Tiled data service."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operandi.experiment import Experiment
    from operandi.experiment_file import load_experiment, parse_experiment
    from operandi.opening import open  # noqa: A004
    from operandi.profiles import install_profile
    from operandi.runner import callback
    from operandi.sources.journal import Journal
    from operandi.sources.potentiostat import read_potentiostat
    from operandi.stages.axis import find_axis
    from operandi.stages.charge import windows
    from operandi.stages.corrections import correct
    from operandi.stages.maps import composite, screen
    from operandi.stages.patterns import integrate
    from operandi.stages.reconstruction import reconstruct

# Looked up on first use: `import operandi` is quick, and a missing extra is missed only by what needs it.
_HOMES = {
    "Experiment": "operandi.experiment",
    "Journal": "operandi.sources.journal",
    "callback": "operandi.runner",
    "composite": "operandi.stages.maps",
    "correct": "operandi.stages.corrections",
    "find_axis": "operandi.stages.axis",
    "install_profile": "operandi.profiles",
    "integrate": "operandi.stages.patterns",
    "load_experiment": "operandi.experiment_file",
    "open": "operandi.opening",
    "parse_experiment": "operandi.experiment_file",
    "read_potentiostat": "operandi.sources.potentiostat",
    "reconstruct": "operandi.stages.reconstruction",
    "screen": "operandi.stages.maps",
    "windows": "operandi.stages.charge",
}

__all__ = [
    "Experiment",
    "Journal",
    "callback",
    "composite",
    "correct",
    "find_axis",
    "install_profile",
    "integrate",
    "load_experiment",
    "open",
    "parse_experiment",
    "read_potentiostat",
    "reconstruct",
    "screen",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

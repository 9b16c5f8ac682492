"""operandi: operando scattering tomography as a bluesky and Tiled data service."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operandi.experiment import Experiment
    from operandi.experiment_file import load_experiment, parse_experiment
    from operandi.opening import open  # noqa: A004
    from operandi.profiles import install_profile
    from operandi.runner import callback
    from operandi.sources.crystals import read_crystal
    from operandi.sources.journal import Journal
    from operandi.sources.potentiostat import read_potentiostat
    from operandi.stages.axis import compare_axes, find_axis
    from operandi.stages.charge import windows
    from operandi.stages.composites import composite
    from operandi.stages.corrections import correct
    from operandi.stages.decomposition import decompose, find_references, reference_patterns
    from operandi.stages.defects import find_regions, match_regions
    from operandi.stages.dstar import fit_dstar
    from operandi.stages.lithium import (
        balance_lithium,
        lattice_of_oxide,
        lithium_in_graphite,
        lithium_in_oxide,
        lithium_of_lattice,
        lithium_of_spacing,
    )
    from operandi.stages.maps import screen
    from operandi.stages.overlaps import fit_ratio, intruders, overlaps
    from operandi.stages.patterns import integrate
    from operandi.stages.peaks import fit_peaks
    from operandi.stages.reconstruction import reconstruct
    from operandi.stages.reflections import reflections
    from operandi.stages.significance import find_significant
    from operandi.stages.unrolling import find_centre, follow_winding, unroll
    from operandi.stages.wobble import find_wobble, straighten

# Looked up on first use: `import operandi` is quick, and a missing extra is missed only by what needs it.
_HOMES = {
    "Experiment": "operandi.experiment",
    "Journal": "operandi.sources.journal",
    "balance_lithium": "operandi.stages.lithium",
    "callback": "operandi.runner",
    "compare_axes": "operandi.stages.axis",
    "composite": "operandi.stages.composites",
    "correct": "operandi.stages.corrections",
    "decompose": "operandi.stages.decomposition",
    "find_axis": "operandi.stages.axis",
    "find_centre": "operandi.stages.unrolling",
    "find_references": "operandi.stages.decomposition",
    "find_regions": "operandi.stages.defects",
    "find_significant": "operandi.stages.significance",
    "find_wobble": "operandi.stages.wobble",
    "fit_dstar": "operandi.stages.dstar",
    "fit_peaks": "operandi.stages.peaks",
    "fit_ratio": "operandi.stages.overlaps",
    "follow_winding": "operandi.stages.unrolling",
    "install_profile": "operandi.profiles",
    "integrate": "operandi.stages.patterns",
    "intruders": "operandi.stages.overlaps",
    "lattice_of_oxide": "operandi.stages.lithium",
    "lithium_in_graphite": "operandi.stages.lithium",
    "lithium_in_oxide": "operandi.stages.lithium",
    "lithium_of_lattice": "operandi.stages.lithium",
    "lithium_of_spacing": "operandi.stages.lithium",
    "load_experiment": "operandi.experiment_file",
    "match_regions": "operandi.stages.defects",
    "open": "operandi.opening",
    "overlaps": "operandi.stages.overlaps",
    "parse_experiment": "operandi.experiment_file",
    "read_crystal": "operandi.sources.crystals",
    "read_potentiostat": "operandi.sources.potentiostat",
    "reconstruct": "operandi.stages.reconstruction",
    "reference_patterns": "operandi.stages.decomposition",
    "reflections": "operandi.stages.reflections",
    "screen": "operandi.stages.maps",
    "straighten": "operandi.stages.wobble",
    "unroll": "operandi.stages.unrolling",
    "windows": "operandi.stages.charge",
}

__all__ = [
    "Experiment",
    "Journal",
    "balance_lithium",
    "callback",
    "compare_axes",
    "composite",
    "correct",
    "decompose",
    "find_axis",
    "find_centre",
    "find_references",
    "find_regions",
    "find_significant",
    "find_wobble",
    "fit_dstar",
    "fit_peaks",
    "fit_ratio",
    "follow_winding",
    "install_profile",
    "integrate",
    "intruders",
    "lattice_of_oxide",
    "lithium_in_graphite",
    "lithium_in_oxide",
    "lithium_of_lattice",
    "lithium_of_spacing",
    "load_experiment",
    "match_regions",
    "open",
    "overlaps",
    "parse_experiment",
    "read_crystal",
    "read_potentiostat",
    "reconstruct",
    "reference_patterns",
    "reflections",
    "screen",
    "straighten",
    "unroll",
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

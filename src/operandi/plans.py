"""Plans: what an experiment will produce, in numbers."""

import math
from dataclasses import dataclass

from operandi.experiment import Experiment
from operandi.stages.scans import images_per_set, spans

IMAGES_PER_S = 100.0
"""Images integrated in a second, reading included, that a machine of two cores is trusted with."""
VOXEL_UPDATES_PER_S = 5e9
"""Back projection: (projection, voxel, q) in a second, of two cores."""
PIXEL_BYTES = 4
BLOCK_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What the experiment will produce; sizes in bytes, before compression."""

    images_per_set: int
    images: int
    frames: int
    set_s: float
    frame_s: float
    duration_s: float
    window_rotations: int
    crowther_rotations: int
    pitch_mm: float
    bin_inv_angstrom: float
    raw_bytes: int
    result_bytes: int
    memory_bytes: int
    processing_s: float

    @property
    def live_load(self) -> float:
        """Share of the measuring time that processing takes; above 1 the worker falls behind."""
        return self.processing_s / self.duration_s


def plan_of(experiment: Experiment, image_shape: tuple[int, int], *, images_per_s: float = IMAGES_PER_S) -> Plan:
    """The numbers of an experiment whose images have ``image_shape`` (rows, columns)."""
    scan, bins = experiment.scan, experiment.integration.bins
    n, per_set, frames = scan.translations, images_per_set(scan), len(spans(scan))
    images, rotations = scan.sets * per_set, scan.rotations_per_set * scan.window_sets
    image_bytes = image_shape[0] * image_shape[1] * PIXEL_BYTES
    volume_bytes, patterns_bytes = n * n * bins * 4, per_set * bins * 8
    sinogram_bytes = rotations * n * bins * 4
    maps_bytes = n * n * (8 * len(experiment.windows) + 3 * len(experiment.composites) + 13 * (experiment.dstar is not None))
    set_s = per_set * scan.exposure_s
    return Plan(
        images_per_set=per_set,
        images=images,
        frames=frames,
        set_s=set_s,
        frame_s=set_s * scan.window_sets,
        duration_s=set_s * scan.sets,
        window_rotations=distinct_rotations(experiment),
        crowther_rotations=math.ceil(math.pi / 2 * n * min(scan.rotation_range_deg, 180.0) / 180.0),
        pitch_mm=abs(scan.translation_stop_mm - scan.translation_start_mm) / (n - 1),
        bin_inv_angstrom=(experiment.integration.q_max_inv_angstrom - experiment.integration.q_min_inv_angstrom) / bins,
        raw_bytes=images * image_bytes,
        result_bytes=scan.sets * patterns_bytes + images * 40 + frames * (sinogram_bytes + volume_bytes + maps_bytes),
        memory_bytes=500_000_000
        + (BLOCK_IMAGES + 6) * image_bytes
        + (scan.window_sets + 1) * (patterns_bytes + volume_bytes)
        + sinogram_bytes
        + volume_bytes,
        processing_s=images / images_per_s + scan.sets * scan.rotations_per_set * n * n * bins / VOXEL_UPDATES_PER_S,
    )


def distinct_rotations(experiment: Experiment) -> int:
    """Angles in a window that differ, counted in the half turn that a tomogram needs; in golden order none comes twice."""
    scan = experiment.scan
    if scan.order == "golden":
        return scan.rotations_per_set * scan.window_sets
    angles = scan.rotations_per_set * min(scan.window_sets, scan.interlaces)
    return round(angles * min(1.0, 180.0 / scan.rotation_range_deg))


def size(n_bytes: float) -> str:
    """Bytes for people, such as ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.0f} PB"


def duration(seconds: float) -> str:
    """Seconds for people, such as ``12 min`` or ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

"""How anyone reads what was published: runs and results of a Tiled server as xarray and pandas, with names and units."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import xarray as xr
from tiled.client import from_profile, from_uri
from tiled.client.base import BaseClient
from tiled.client.container import Container
from tiled.client.utils import ClientError

from .errors import NotPublishedError, PublishError
from .frames import Frame
from .instants import Asked, instant_dataset
from .nodes import (
    CONVERGENCE,
    DEFECTS,
    ECHEM,
    EVENTS,
    FINISHED,
    LEDGER,
    LITHIUM,
    PROCESSED,
    PROVISIONAL,
    RAW,
    REGION_TABLE,
    STEPS,
    NodePath,
)
from .profiles import PROFILE, profile_uri
from .reading import container, digests, labelled, plain, read_table, told_dstar, with_provisional
from .stages.instants import Scheme
from .stages.maps import Background
from .subscription import Subscription
from .views import window_node

FROM_LOG = {"charge", "voltage", "current", "cycle"}
"""What of the patterns comes from the potentiostat's log, and so may come later."""
ANSWER_WITHIN_S = 10.0


def open(profile_or_uri: str = PROFILE, *, api_key: str | None = None) -> Catalog:  # noqa: A001 - the name that users call
    """Connect to a server by the name of a Tiled profile or by its URI.

    Raises
    ------
    PublishError
        The server does not answer, or wants an API key.
    NotPublishedError
        There is no such profile.
    """
    uri = profile_or_uri if "://" in profile_or_uri else profile_uri(profile_or_uri)
    _knock(uri)
    try:
        if "://" in profile_or_uri:
            return Catalog(from_uri(profile_or_uri, "dask", api_key=api_key))
        return Catalog(from_profile(profile_or_uri, "dask", **({"api_key": api_key} if api_key else {})))
    except (ClientError, RuntimeError) as error:
        raise PublishError(f"{uri}: {error}; give the API key of a reader, as api_key or in TILED_API_KEY") from error


def _knock(uri: str) -> None:
    """Find out quickly whether anyone is there; the Tiled client would try for 45 s."""
    parts = urlsplit(uri)
    try:
        httpx.get(f"{parts.scheme}://{parts.netloc}/healthz", timeout=ANSWER_WITHIN_S)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise PublishError(
            f"the Tiled server {uri} does not answer ({error}); start it with `operandi serve`, or give another URI"
        ) from error


class Catalog:
    """A server: ``runs`` as they were measured, ``results`` as they were processed."""

    def __init__(self, client: BaseClient) -> None:
        self.client = cast(Container, client)

    @property
    def runs(self) -> Container:
        """The raw runs by uid, a Tiled container of BlueskyRuns.

        Raises
        ------
        NotPublishedError
            None is published yet.
        """
        return _child(self.client, (RAW,), "no raw run is published yet")

    @property
    def results(self) -> Results:
        """The results by key."""
        return Results(self.client)

    def latest(self) -> Result:
        """The result that was opened last.

        Raises
        ------
        NotPublishedError
            None is published yet.
        """
        results = list(self.results)
        if not results:
            raise NotPublishedError(f"{self.client.uri}: no result is published yet")
        return self.results[results[-1]]

    def close(self) -> None:
        """Close the connections; also at the end of a ``with`` statement."""
        self.client.context.http_client.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<operandi Catalog {self.client.uri}: {len(self.results)} results>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td><code>{html.escape(key)}</code></td></tr>" for key in reversed(list(self.results)))
        return f"<table><tr><th>results of {html.escape(str(self.client.uri))}, latest first</th></tr>{rows}</table>"


class Results(Mapping[str, "Result"]):
    """Results by key, in the order in which they were opened."""

    def __init__(self, client: Container) -> None:
        self._client = client

    def __getitem__(self, key: str) -> Result:
        return Result(_child(self._client, (PROCESSED, key), f"no result {key!r} is published (yet)"))

    def __iter__(self) -> Iterator[str]:
        return iter([] if PROCESSED not in self._client else list(cast(Container, self._client[PROCESSED])))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<operandi Results {list(self)}>"


class Result:
    """One result: the frames of an operando experiment, as far as they are committed.

    Every property asks the server; nothing is kept, so a result that still grows can be read again and again.
    """

    def __init__(self, client: Container) -> None:
        self.client = client

    @property
    def key(self) -> str:
        """Name of the result: when, what, which run, which processing."""
        return self.client.item["id"]

    @property
    def metadata(self) -> dict[str, Any]:
        """What was measured and how it was processed."""
        return plain(self.client.metadata)

    # Tables

    @property
    def steps(self) -> pd.DataFrame:
        """One row for each frame: those that are committed, then those (``provisional``) that still wait for the potentiostat's log.

        A provisional frame can be read by `frame`; its charge is NaN, and ``quality`` says what it waits for.
        """
        provisional = self.table(PROVISIONAL) if PROVISIONAL[0] in container(self.client) else None  # first: it may be committed meanwhile
        committed = self.table(STEPS)
        if provisional is None:
            return committed.assign(provisional=False)
        return with_provisional(committed, provisional)

    @property
    def events(self) -> pd.DataFrame:
        """What the guardian told, in the order of its time; what was told again after a restart stands once."""
        told = self.table(EVENTS).drop_duplicates(["time", "rule", "change"])
        return told.sort_values("time", kind="stable", ignore_index=True)

    @property
    def ledger(self) -> pd.DataFrame:
        """One row for each admitted, refused and missing exposure."""
        return self.table(LEDGER)

    @property
    def echem(self) -> pd.DataFrame:
        """The potentiostat's log, on the clock of the beamline."""
        return self.table(ECHEM)

    def table(self, path: NodePath) -> pd.DataFrame:
        """A table, in the order of its order column, each row once."""
        node = self._node(path)
        return read_table(node)

    # Arrays

    @property
    def maps(self) -> xr.Dataset:
        """Maps (frame, phase, y, x): ``intensity``, ``sigma``; NaN where nothing was measured."""
        return self._frames("maps").compute()

    @property
    def composites(self) -> xr.DataArray:
        """Maps in false colour (frame, composite, y, x, rgb), 0 to 255."""
        return self._frames("composites")["rgb"].compute()

    @property
    def dstar(self) -> xr.Dataset:
        """d* (frame, y, x): ``dstar`` and its ``sigma``, nm, ``q_star``, the ``slope`` above it, and the ``reason`` where there is none."""
        return told_dstar(self._frames("dstar").compute(), self._node(("dstar",)))

    @property
    def peaks(self) -> xr.Dataset:
        """Peaks (frame, peak, y, x): ``position``, ``width``, Å⁻¹, ``area``, each with ``…_sigma``; ``reason``, 0 where there is one."""
        return self._frames("peaks").compute()

    @property
    def amounts(self) -> xr.Dataset:
        """Amounts of reference patterns (frame, reference, y, x): ``value`` and ``sigma``; ``residual`` (frame, y, x)."""
        return self._frames("amounts").compute()

    @property
    def regions(self) -> xr.Dataset:
        """Regions of each frame: ``label`` (frame, y, x), 0 outside, 1 normal, 2 bend, 3 agglomerate; ``defect``, its number, 0 none;
        ``score``, standard deviations; and their mean profiles ``intensity``, its ``sigma``, and the ``spread`` (frame, region, q).
        """
        return self._frames("regions").compute()

    @property
    def region_table(self) -> pd.DataFrame:
        """d* of the mean profile of each region in each frame, nm, or the reason why there is none."""
        return self.table(REGION_TABLE).drop(columns="entry")

    @property
    def defects(self) -> pd.DataFrame:
        """Each bend and agglomerate of each frame: where it lies, and its size in µm; ``number`` as in the map of `regions`."""
        table = self.table(DEFECTS).drop(columns="entry")
        return table.assign(critical=table["critical"].astype(bool))

    @property
    def lithium(self) -> pd.DataFrame:
        """Lithium in graphite and oxide of each frame, and its balance against the charge, mAh, with sigma; `attrs` say what is assumed."""
        about = plain(self._node(LITHIUM).metadata)
        table = self.table(LITHIUM)
        table.attrs = {name: about[name] for name in ("strengths", "assumptions", "graphite_mah", "oxide_mah")}
        return table

    @property
    def volumes(self) -> xr.Dataset:
        """Volumes (frame, y, x, q), read when computed (dask)."""
        return self._frames("volumes")

    def window(self, q_min: float, q_max: float, *, background: Background | None = None) -> xr.DataArray:
        """Maps (frame, y, x) of any window of q, Å⁻¹, made by the server when computed (dask).

        ``background`` as in `operandi.screen`; None is that of the published map of the same q, else linear. Raises ShapeError where the
        window or its background reaches beyond the patterns.
        """
        return self._frames("windows", {"intensity": window_node(self.client, q_min, q_max, background)})["intensity"]

    @property
    def patterns(self) -> xr.Dataset:
        """Patterns (image, q): ``intensity``, ``sigma``, read when computed (dask), and what was recorded with each image.

        What the log says is NaN for images whose part of it is not there yet.
        """
        nodes = self._arrays("patterns")
        n = min(node.shape[0] for name, node in nodes.items() if name not in FROM_LOG)
        parts = {name: labelled(node, slice(0, min(n, node.shape[0]))) for name, node in nodes.items()}
        for name in FROM_LOG & set(parts):
            parts[name] = parts[name].pad(image=(0, n - parts[name].sizes["image"]))
        small = {name: array.compute() for name, array in parts.items() if array.dims == ("image",)}
        return xr.Dataset({name: array for name, array in parts.items() if name not in small}, attrs=self._about()).assign_coords(small)

    @property
    def projections(self) -> xr.Dataset:
        """The projections of all closed sets as the maps see them (projection, translation, phase), with their rotation and time."""
        nodes = self._arrays("projections")
        n = min(node.shape[0] for node in nodes.values())
        return xr.Dataset({name: labelled(node, slice(0, n)) for name, node in nodes.items()}, attrs=self._about()).compute()

    @property
    def moments(self) -> xr.Dataset:
        """The moment of every voxel (frame, y, x): ``time`` and its ``spread``, s, and ``charge`` and ``voltage`` at that time;
        ``bend`` above 0.3: the voxel's course turns within the frame, there is no single moment.
        ``provisional``: of geometry alone; what is measured refines it when the next sets are there. The same holds for `instants`.
        """
        return self._unfinished(self._frames("moments").compute())

    @property
    def instants(self) -> xr.Dataset:
        """Maps (frame, phase, y, x) of one moment each, the middle of the frame's charge: ``intensity``, ``sigma``."""
        return self._unfinished(self._frames("instants").compute())

    @property
    def convergence(self) -> pd.DataFrame:
        """How well each map of each frame that is finished is determined, and whether the cell changed too fast for it."""
        table = self.table(CONVERGENCE).drop(columns="entry")
        return table.assign(changed=table["changed"].map({0: False, 1: True}.get))

    def sinogram(self, frame: int) -> xr.DataArray:
        """The sinogram (rotation, translation, q) of one frame."""
        return labelled(self._node(("sinograms", f"{frame:04d}"))).compute().assign_attrs(frame=frame)

    def spectrum(self, y: float, x: float, *, frame: int) -> xr.DataArray:
        """The pattern (q) of the voxel nearest to ``y``, ``x`` (mm from the rotation axis); see `Frame.spectrum`."""
        return self.frame(frame).spectrum(y, x)

    # Frames

    def frame(self, number: int) -> Frame:
        """One frame, committed or provisional.

        Raises
        ------
        NotPublishedError
            It is not committed (yet).
        """
        steps = self.steps
        rows = steps[steps["frame"] == number]
        if rows.empty:
            raise NotPublishedError(f"result {self.key}: frame {number} is not committed (yet); committed: {steps['frame'].tolist()}")
        return Frame(self, rows.iloc[0].to_dict())

    def nearest_frame(self, charge_mah: float, *, phase: str | None = None, tolerance_mah: float = 0.5) -> Frame:
        """The frame whose tag (``q_mah``) is nearest to ``charge_mah``; of two equally near, the later.

        Parameters
        ----------
        phase
            Only frames of this phase of the cycle (a value of ``steps.phase``): a cell passes the same charge more than once.
        tolerance_mah
            How far outside of every frame's range of charge ``charge_mah`` may lie.

        Raises
        ------
        NotPublishedError
            No frame is committed whose charge is known, or none covers this charge.
        """
        steps = self.steps
        steps = steps[np.isfinite(steps["q_mah"]) & ((steps["phase"] == phase) | (phase is None))]
        if steps.empty:
            raise NotPublishedError(
                f"result {self.key}: no frame with a known charge{f' in phase {phase!r}' if phase else ''} is committed yet"
            )
        low, high = steps[["q_start_mah", "q_end_mah"]].min().min(), steps[["q_start_mah", "q_end_mah"]].max().max()
        if not low - tolerance_mah <= charge_mah <= high + tolerance_mah:
            raise NotPublishedError(f"result {self.key}: no frame at {charge_mah:g} mAh; the frames cover {low:.2f} to {high:.2f} mAh")
        distance = np.abs(np.asarray(steps["q_mah"], dtype=np.float64) - charge_mah)
        return Frame(self, steps.iloc[np.flatnonzero(distance == distance.min())[-1]].to_dict())

    def at_charge(self, charge_mah: float, *, passage: int = 0, scheme: Scheme = "model") -> xr.Dataset:
        """The maps of the cell at exactly this charge; see `instant`."""
        return self.instant(charge_mah=charge_mah, passage=passage, scheme=scheme)

    def at_time(self, time: float, *, scheme: Scheme = "model") -> xr.Dataset:
        """The maps of the cell at this time, UTC epoch s; see `instant`."""
        return self.instant(time=time, scheme=scheme)

    def instant(
        self, *, charge_mah: float | None = None, time: float | None = None, passage: int = 0, scheme: Scheme = "model"
    ) -> xr.Dataset:
        """The maps (phase, y, x) of the cell at one moment, ``intensity`` and ``sigma``, made here of the projections of all sets about it.

        Parameters
        ----------
        charge_mah, time
            The moment: a charge, or UTC epoch s.
        passage
            Which time, counted from 0, where the charge goes back and passes ``charge_mah`` more than once; -1 is the last.
        scheme
            How projections are weighed, as `operandi.stages.instants.instant_sinogram` says.

        Raises
        ------
        NotPublishedError
            Nothing is measured at this moment (yet); what is, is named.
        """
        sinograms = container(self._node(("sinograms",)))
        if not len(sinograms):
            raise NotPublishedError(f"result {self.key}: the rotation axis is not known before the first frame is there")
        axis = sinograms.values().first().metadata["axis_mm"]
        return instant_dataset(Asked(charge_mah, time, passage, scheme), self.projections, self.echem, self.metadata, axis)

    def subscribe(self, on_step: Callable[[dict[str, Any]], None], *, reconcile_s: float = 5.0, since: int = -1) -> Subscription:
        """Call ``on_step(row)`` for every row of ``steps`` above ``since``, in order, each once, as it is committed.

        The calls come from a thread. The server's stream wakes it; the rows come from the table itself, which is also read
        every ``reconcile_s``, so that none is lost with a message. Stop it, or use it in a ``with`` statement.
        """
        return Subscription(lambda: self.table(STEPS), cast(Container, self.client), on_step, reconcile_s=reconcile_s, since=since)

    def digest(self) -> dict[str, str]:
        """SHA-256 of the content of every array and table by path: equal where two results are equal bit by bit."""
        return dict(digests(self.client, ()))

    def _node(self, path: NodePath) -> Any:
        return _child(self.client, path, f"result {self.key} has no {'/'.join(path)} (yet)")

    def _arrays(self, name: str) -> dict[str, Any]:
        """The array nodes below the container ``name``."""
        arrays = {key: node for key, node in container(self._node((name,))).items() if node.structure_family == "array"}
        if not arrays:
            raise NotPublishedError(f"result {self.key} has no {name} (yet)")
        return arrays

    def _frames(self, name: str, nodes: Mapping[str, Any] | None = None) -> xr.Dataset:
        """The arrays below ``name``, or these, their committed frames only, each read by itself, labelled with what the steps say."""
        steps, arrays = self.table(STEPS), nodes or self._arrays(name)
        frames = steps["frame"].to_numpy()
        if not len(frames):
            raise NotPublishedError(f"result {self.key}: no frame is committed yet")
        dataset = xr.Dataset(
            {key: xr.concat([labelled(node, int(frame)) for frame in frames], "frame") for key, node in arrays.items()}, attrs=self._about()
        )
        labels = {
            "frame": ("frame", frames),
            "q_mah": ("frame", steps["q_mah"].to_numpy(), {"units": "mAh"}),
            "time": ("frame", ((steps["t_start"] + steps["t_end"]) / 2).to_numpy(), {"units": "s", "reference": "UTC since 1970"}),
        }
        return dataset.assign_coords({name: label for name, label in labels.items() if name not in dataset})

    def _unfinished(self, dataset: xr.Dataset) -> xr.Dataset:
        """The dataset, whose frames are told to be provisional or not."""
        return dataset.assign_coords(provisional=("frame", ~np.isin(dataset["frame"], self.table(FINISHED)["frame"])))

    def _about(self) -> dict[str, Any]:
        return {"result": self.key, "server": str(self.client.uri)}

    def __repr__(self) -> str:
        return f"<operandi Result {self.key}: {self._summary()}>"

    def _summary(self) -> str:
        try:
            steps = self.steps
        except NotPublishedError:
            return "nothing committed yet"
        if steps.empty:
            return "nothing committed yet"
        waiting = int(steps["provisional"].sum())
        frames = f"{len(steps)} frames" + (f" ({waiting} provisional)" if waiting else "")
        known = steps["q_mah"].dropna()
        charge = f"{known.min():.2f} to {known.max():.2f} mAh" if len(known) else "charge unknown"
        return f"{frames}, {charge}, {self.metadata.get('status', 'growing')}"

    def _repr_html_(self) -> str:
        try:
            table = self.steps[["frame", "q_mah", "voltage", "current", "phase", "coverage", "quality"]].to_html(index=False, border=0)
        except NotPublishedError:
            table = ""
        return f"<p><b>{html.escape(self.key)}</b>: {html.escape(self._summary())}</p>{table}"


def _child(client: Container, path: NodePath, otherwise: str) -> Any:
    """Node below ``client``; raises NotPublishedError where there is none."""
    try:
        return container(client)[path]
    except KeyError as error:
        raise NotPublishedError(f"{client.uri}: {otherwise}") from error

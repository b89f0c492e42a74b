"""What a notebook opens its run with, and hands its results to: one call each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from emomm_study import paper
from emomm_study.corpora.manifest import read_manifest
from emomm_study.paths import FIGURES, RUNS, run_dir
from emomm_study.report.claims import judged, markdown_table, read_claims
from emomm_study.report.comparison import save_comparison
from emomm_study.report.drawing import Picture
from emomm_study.report.manifest import Provenance, frame_fingerprint
from emomm_study.report.publish import caption, write_figure, write_table
from emomm_study.report.tables import formatted
from emomm_study.report.values import read_values, record_values, recorded

if TYPE_CHECKING:
    from emomm_study.evaluate.experiment import Experiment, ExperimentSettings
    from emomm_study.systems.interface import System

Source = pd.DataFrame | str | Sequence[pd.DataFrame | str]
"""What a file is made of: tables, and texts that change whenever a number of it can."""
BESIDE = ("item", "published", "reproduced", "low", "high", "within", "note")
"""Columns that a notebook shows of a comparison."""


@dataclass(eq=False)
class Run:
    """One run of a notebook under a profile.

    Attributes
    ----------
    notebook
        Stem of its file: ``02_statistics``.
    data_note
        What the profile's data are, for captions.
    parameters
        Values by name, as the notebook's parameters cell and the profile set them.
    made_of
        What published files are made of, where a call does not say. None stands for the bench's
        clips and fingerprint where that was opened, and for the benchmark's manifest elsewhere.
    origin
        What figures name in the profile's place, where nothing of the profile is in them.
    """

    notebook: str
    profile: str
    data_note: str
    parameters: Mapping[str, object] = field(repr=False)
    made_of: Source | None = None
    origin: str | None = None
    compared: pd.DataFrame | None = field(default=None, init=False, repr=False)

    @property
    def published_as(self) -> str:
        """The profile in captions, and its folder of figures; of a part of the clips one of its own."""
        clips = self.parameters.get("clips")
        return self.profile if clips is None else f"{self.profile}-{clips}-clips"

    @cached_property
    def bench(self) -> Experiment:
        """The first backbone and the clips that the parameters describe; loaded when first used.

        Of a part of the benchmark it is printed how near its shares are to the whole's.

        Raises ``ValueError`` that names the parameters that the notebook lacks.
        """
        bench = self._open(0)
        if self.parameters.get("clips") is not None:
            print(bench.part)
        return bench

    def other_benches(self) -> Iterator[Experiment]:
        """The same clips with each further backbone, loaded when its turn comes."""
        for place in range(1, len(self._settings())):
            yield self._open(place)

    def organisms(self) -> Iterator[Experiment]:
        """The same clips with each model of the parameter ``organisms``, or the bench for none."""
        from emomm_study.evaluate.experiment import open_experiment

        first = self._settings()[0]
        for model in self.parameters.get("organisms") or [first.model]:
            if model == first.model:
                yield self.bench
            else:
                yield open_experiment(replace(first, model=model))

    def systems(self) -> Iterator[tuple[str, System]]:
        """The parameter ``systems``, by the names that tables have for them, each in its turn.

        A driver is ended when its turn is over.
        """
        from emomm_study.systems.named import Named
        from emomm_study.systems.table import load_system, shown_name

        first = self._settings()[0]
        for text in self.parameters.get("systems") or ():
            named = Named.of(text)
            given = {"dtype": first.dtype, "device": first.device, "pixels": first.frame_pixels}
            system = load_system(named.path, **given, **named.options)
            try:
                yield shown_name(named), system
            finally:
                getattr(system, "close", lambda: None)()

    def _settings(self) -> list[ExperimentSettings]:
        # Imports torch, which a notebook that asks no model need not wait for.
        from emomm_study.evaluate.experiment import ExperimentSettings

        try:
            return ExperimentSettings.of(self.parameters)
        except ValueError as error:
            raise ValueError(f"{self.notebook}: {error}") from None

    def _open(self, place: int) -> Experiment:
        from emomm_study.evaluate.experiment import open_experiment

        return open_experiment(self._settings()[place])

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The benchmark that notebook 01 built under this profile, one row a clip."""
        return read_manifest(run_dir(self.profile) / "manifest.parquet")

    def publish(
        self,
        made: Figure | pd.DataFrame,
        name: str,
        item: str,
        text: str,
        *,
        note: str | None = None,
        published: float | str | dict[str, float] | None = None,
        of: Source | None = None,
        decimals: int | Mapping[str, int] = 4,
        formats: Sequence[str] | None = None,
    ) -> Picture | pd.DataFrame:
        """Write a figure or a table under ``figures/<profile>`` and return what the cell shows.

        What is made of a part of the clips goes to ``figures/<profile>-<clips>-clips``.

        Parameters
        ----------
        made
            A figure, which is closed and shown as it was written, or a table, returned as printed
            text.
        name
            Of the files, without an ending; files of that name in other formats are removed.
        item
            The paper's item (``Figure 6``), or what else the file is.
        text, note
            The caption is ``item: text. Profile X. note``; the note is by default the data note.
        published
            Published value or values, where there are any.
        of
            What it is made of; by default :attr:`made_of`.
        decimals
            Printed digits of a table, for all columns or by column.
        formats
            Of a figure; by default those that the run was asked for (``report.formats``).
        """
        profile = self.published_as
        words = caption(item, profile, text, self.data_note if note is None else note)
        provenance = Provenance(item, self.notebook, self._digest(of), words, published)
        if isinstance(made, Figure):
            return write_figure(
                made, name, profile, provenance, formats=formats, origin=self.origin, root=FIGURES
            )
        write_table(made, name, profile, provenance, decimals=decimals, root=FIGURES)
        return formatted(made, decimals)

    def _digest(self, of: Source | None) -> str:
        if of is None:
            of = self.made_of
        if of is None:
            opened = "bench" in vars(self)
            of = (self.bench.clips, self.bench.fingerprint) if opened else self.manifest
        parts = [of] if isinstance(of, str | pd.DataFrame) else of
        return "-".join(p if isinstance(p, str) else frame_fingerprint(p) for p in parts)

    def record(self, table: pd.DataFrame, name: str, by: Sequence[str], **options: object) -> None:
        """Keep a table's estimated numbers to compare after a rerun (``values.record_values``)."""
        record_values(table, name, self.profile, self.notebook, by=by, **options)

    def compare(
        self,
        published: pd.DataFrame,
        reproduced: pd.DataFrame | Mapping[str, float],
        tolerance: float | Mapping[str, float],
        *,
        columns: Sequence[str] = BESIDE,
        **options: object,
    ) -> pd.DataFrame:
        """Published beside reproduced values (``paper.compare``), kept for the closing table.

        Items of a second call join those of the first. Returns the ``columns`` of this call.
        """
        table = paper.compare(published, reproduced, tolerance, profile=self.profile, **options)
        everything = pd.concat([self.compared, table], ignore_index=True)
        self.compared = everything.drop_duplicates("item", keep="last", ignore_index=True)
        save_comparison(self.compared, self.profile, self.notebook[:2], RUNS)
        return table[[*columns]]

    def claims(self) -> Markdown:
        """The paper's claims about this notebook's values, each with its verdict (RESULTS.md)."""
        number = self.notebook[:2]
        path = recorded(self.profile) / f"{self.notebook}.csv"
        own = [claim for claim in read_claims() if claim.notebook == number]
        table = judged(own, {number: read_values(path)} if path.is_file() else {})
        named = {"item": "paper", "here": f"here, {self.profile} [95%]"}
        return Markdown(markdown_table(table.drop(columns="notebook").rename(columns=named)))


def open_run(notebook: str, parameters: Mapping[str, object]) -> Run:
    """The run of a notebook whose parameters cell has been executed.

    ``notebook`` is the stem of its file, ``parameters`` its ``globals()``. Raises ``ValueError``
    where they hold no profile.
    """
    profile = parameters.get("profile")
    if not isinstance(profile, str) or not profile:
        raise ValueError(
            f"{notebook}: expected a parameter profile, the name of one; got {profile!r}. "
            "Run the parameters cell first"
        )
    # A copy: cells below may take a parameter's name for something else.
    return Run(notebook, profile, str(parameters.get("data_note", "")), dict(parameters))

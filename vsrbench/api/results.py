"""Stored results as one object: tables, figures, report, comparison, pandas."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vsrbench.cards.specs import ROOT, dataset_spec
from vsrbench.core.errors import OK, UserError, unknown_name
from vsrbench.core.files import shorten_name
from vsrbench.core.progress import counted, note
from vsrbench.core.types import DatasetSpec, Record
from vsrbench.results.compare import Change
from vsrbench.results.store import Store, explain_software

if TYPE_CHECKING:
    import pandas as pd

    from vsrbench.results.summary import Summary

FORMS = ("terminal", "markdown", "latex", "csv", "csv-wide", "json")
"""Forms of a table."""
FIGURES = ("teaser", "crops", "profile", "scatter", "drift", "growth", "video")
"""Kinds of figures."""
FPS = 12.0
"""Frames per second, for clips that do not state their own."""

NAMES_SHOWN = 6
"""Methods and datasets that `repr` names."""

Names = Sequence[str] | None
Box = tuple[int, int, int, int]


def default_results() -> Path:
    """results/local of the checkout when the work is done in it, else of the working directory."""
    here = Path.cwd()
    checkout = (ROOT / "run_bench.py").is_file() and here.is_relative_to(ROOT)
    return (ROOT if checkout else here) / "results" / "local"


def load(results: str | Path | None = None, root: str | Path = ROOT) -> Results:
    """Stored results: a folder, or a records file. Without one those of this directory.

    root: folder of datasets/ for the titles of datasets. Raises MissingError where there are none.
    """
    return Results(Store.at(Path(results) if results else default_results()), Path(root))


def load_side_by_side(folders: Sequence[str | Path], root: str | Path = ROOT) -> Results:
    """The results of several folders as one, for tables: see `results.merge.place_side_by_side`."""
    from vsrbench.results.merge import place_side_by_side

    stores = [Store.at(Path(folder)) for folder in folders]
    found = {str(store.folder): store.require() for store in stores}
    return Results(stores[0], Path(root), records=place_side_by_side(found), others=stores[1:])


@dataclass(frozen=True)
class Comparison:
    """New results held against a base."""

    changes: tuple[Change, ...]
    """One for each mean, cost or lost result."""
    software: str = ""
    """Versions of packages that the two were computed with, where they differ."""

    @property
    def regressed(self) -> bool:
        """True if something got worse by more than its tolerance, or is gone."""
        from vsrbench.results.compare import has_regressed

        return has_regressed(self.changes)

    @property
    def verdict(self) -> str:
        """One line."""
        from vsrbench.results.compare import verdict_line

        return verdict_line(self.changes, self.software)

    def json(self) -> str:
        """All changes and the verdict."""
        from vsrbench.results.compare import to_json

        return to_json(self.changes, self.software)

    def annotations(self) -> list[str]:
        """A line for each regression that GitHub shows beside a workflow's run."""
        from vsrbench.results.compare import github_annotations

        return github_annotations(self.changes)

    def markdown(self, everything: bool = False) -> str:
        """The changes as a table; with what is unchanged, if `everything` or nothing changed."""
        from vsrbench.results.compare import markdown

        return markdown(self.changes, everything, self.software)

    def terminal(self, width: int, everything: bool = False) -> str:
        """The same, drawn for a terminal of that width."""
        from vsrbench.show import terminal

        return terminal.format_changes(self.changes, self.verdict, width, _colour(), everything)

    def to_frame(self) -> pd.DataFrame:
        """One row a change."""
        import pandas as pd

        return pd.DataFrame([asdict(change) for change in self.changes])


class Results:
    """Results on disk, and everything that is made of them. Reading needs no torch.

    Methods take the names of what to show; None is all that has results, and an unknown name
    raises UserError with the closest one. Nothing is computed or changed by any of them.
    """

    def __init__(
        self,
        store: Store,
        root: Path = ROOT,
        own: Mapping[str, DatasetSpec] | None = None,
        records: Sequence[Record] | None = None,
        exit_code: int = OK,
        others: Sequence[Store] = (),
    ) -> None:
        """own: specs of datasets that no file declares. records: these alone, such as of one run.

        exit_code: how the run went that they are of. others: stores that records come from, too.
        """
        self.store, self.root, self.exit_code = store, root, exit_code
        self._own, self._records = dict(own or {}), records
        self._others = tuple(others)

    def __repr__(self) -> str:
        """Where they lie, and what of."""
        try:
            records = self._read(lean=True)
        except UserError as error:
            return f"<Results: {error.message}>"
        methods = dict.fromkeys(r.method for r in records)
        datasets = dict.fromkeys(r.dataset for r in records if r.dataset)
        parts = [counted(len(records), "record")]
        for names, noun in ((methods, "method"), (datasets, "dataset")):
            shown = ", ".join([*list(names)[:NAMES_SHOWN], *["..."] * (len(names) > NAMES_SHOWN)])
            parts.append(counted(len(names), noun) + (f" ({shown})" if names else ""))
        return f"<Results in {self.folder}: {', '.join(parts)}>"

    def _repr_markdown_(self) -> str | None:
        """The table, which notebooks show."""
        try:
            return self.table()
        except UserError:
            return None

    @property
    def folder(self) -> Path:
        """Where they lie: records.jsonl, runs.jsonl, frames/, figures/."""
        return self.store.folder

    def records(self, strict: bool = False) -> list[Record]:
        """The results that were asked for last, one record each.

        strict: DataError for damaged lines, which are otherwise passed over with a note. Raises
        MissingError when there is none.
        """
        return self._read(strict, lean=False)

    def _read(self, strict: bool = False, *, lean: bool) -> list[Record]:
        if self._records is not None:
            return list(self._records)
        try:
            return self.store.require(strict, lean)
        finally:
            self._say_notices()

    def _read_strictly(self, runs: set[str]) -> Iterator[Record]:
        """For a comparison, when the first one is asked for; `runs` takes where they are from."""
        for record in self._read(strict=True, lean=True):
            runs.add(record.run_id)
            yield record

    def _say_notices(self) -> None:
        for line in self.store.notices:
            note(f"note: {line}")
        self.store.notices.clear()

    def to_frame(self) -> pd.DataFrame:
        """Scores in long form: one row for each method, clip and metric, at full precision.

        Failed and skipped ones are rows without a value and with a `reason`.
        """
        import pandas as pd

        rows = [
            {
                "dataset": r.dataset,
                "clip": r.clip,
                "method": r.method,
                "metric": r.metric,
                "value": r.value,
                "unit": r.unit,
                "status": r.status,
                "reason": (r.error or {}).get("message", ""),
                "frames": r.frames,
                "weights": r.weights_origin,
                "run": r.run_id,
            }
            for r in self.records()
            if r.kind == "quality"
        ]
        return pd.DataFrame(rows)

    def summary(
        self, methods: Names = None, datasets: Names = None, metrics: Names = None
    ) -> Summary:
        """Means over clips with intervals and ranks, as tables show them."""
        return self._summary(self._read(lean=True), methods, datasets, metrics)

    def _summary(
        self, records: Sequence[Record], methods: Names, datasets: Names, metrics: Names
    ) -> Summary:
        from vsrbench.results.summary import summarise

        named = (r.dataset for r in records if not r.dataset_source)
        specs = known_specs(self.root, named) | self._own
        return summarise(records, methods, datasets, metrics, specs)

    def table(
        self,
        form: str | None = "markdown",
        *,
        methods: Names = None,
        datasets: Names = None,
        metrics: Names = None,
        cost: bool = True,
        sort: str = "",
        drop_empty: bool = True,
        columns: Literal[1, 2] = 2,
    ) -> str:
        """A table in one of FORMS; None is for stdout: drawn for a terminal, else Markdown.

        cost: with the columns of the cost. sort: a column, best first. drop_empty: columns without
        any value become a note (never in csv and json). columns: of a page, for LaTeX.
        """
        from vsrbench.show.tables import select

        summary = self.summary(methods, datasets, metrics)
        whole = (form or "").startswith(("csv", "json"))
        return self.format_summary(
            select(summary, cost, sort, drop_empty and not whole), form, columns
        )

    def format_summary(
        self, summary: Summary, form: str | None = "markdown", columns: Literal[1, 2] = 2
    ) -> str:
        """A summary in one of FORMS, as `table` gives it."""
        from vsrbench.show import latex, tables

        if form is None:
            form = "terminal" if sys.stdout.isatty() else "markdown"
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        if form in ("csv", "csv-wide", "json"):
            made = {"csv": tables.csv, "csv-wide": tables.csv_wide, "json": tables.json}
            return made[form](summary)
        runs = {run for block in summary.blocks for run in block.runs}
        code = "; ".join(
            dict.fromkeys(filter(None, (s.code(runs) for s in (self.store, *self._others))))
        )
        self._say_notices()
        if form == "latex":
            return latex.latex(summary, code, columns)
        if form == "terminal":
            from vsrbench.show import terminal

            return terminal.terminal(summary, shutil.get_terminal_size().columns, _colour(), code)
        return tables.markdown(summary, code)

    def figure(
        self,
        kind: str,
        out: str | Path | None = None,
        *,
        dataset: str | None = None,
        clip: str | None = None,
        methods: Names = None,
        metric: str = "",
        x: str = "",
        row: int | None = None,
        frame: int | None = None,
        box: Box | None = None,
        how: Literal["side", "grid", "wipe"] = "side",
        form: str = "",
        limit_mib: float = 3.0,
    ) -> Path:
        """Draw one of FIGURES; the path of the file comes back.

        dataset: without it the first with results. clip: without it the one on which methods differ
        most, for `drift` the longest. methods: `lq` is the input, for `crops`, `teaser` and
        `video`; bicubic and GT are added to all but `video`. metric: of `scatter` and `drift`; x:
        the other axis of `scatter`; without them by what there is. row: of `profile`. frame, box
        (x, y, width, height in GT px): of `crops` and `teaser`; the box also of `video`. form: a
        format, where `out` has none: png, svg, pdf; mp4, gif, webp for `video`. how, limit_mib:
        arrangement and largest GIF or WebP of `video`. A JSON file beside a figure keeps what was
        chosen by which rule, and a caption. Frames must have been kept for `teaser`,
        `crops`, `profile` and `video`: MissingError where they were not.
        """
        from vsrbench.show import figures, moving

        if kind not in FIGURES:
            raise unknown_name("figure", kind, FIGURES)
        records = self.records()
        usual = form or ("mp4" if kind == "video" else "png")
        if kind == "growth":
            if self._records is None:  # of all lengths: a view keeps one cost for each size
                records = [*self.store.latest().values()]
            path = self._place(out, "growth", usual)
            with write_clearly(path):
                figures.growth(records, methods, path)
            return path
        quality = [r for r in records if r.kind == "quality"]
        sets = list(dict.fromkeys(r.dataset for r in quality))
        dataset = dataset or ("synthetic" if "synthetic" in sets else sets[0] if sets else "")
        if dataset not in sets:
            raise unknown_name("dataset with results", dataset, sets)
        clips = list(dict.fromkeys(r.clip for r in quality if r.dataset == dataset))
        have = list(dict.fromkeys(r.method for r in quality if r.dataset == dataset))
        frames, from_frames = self.store.frames, kind in ("teaser", "profile", "crops", "video")
        if clip is not None and clip not in clips:
            raise unknown_name(f"clip of {dataset}", clip, clips)
        for name in methods or []:
            if name not in have and not (from_frames and name == figures.LQ):
                raise unknown_name("method with results", name, have)
        one = ""
        if from_frames:
            one = clip or figures.find_telling_clip(
                frames, records, dataset, clips, methods or have
            )
            places = figures.locate_frames(frames, records, dataset, one, have)
            have = [name for name, place in places.items() if place.is_dir()] or have
        shown = list(methods) if methods else have
        if kind == "drift":
            one = clip or ""
        label = f"{dataset}-{one}" if one else dataset
        path = self._place(out, f"{kind}-{label}", usual)
        if kind != "video":
            figures.check_format(path)
        with write_clearly(path):
            if kind in ("profile", "crops", "teaser"):
                kept = figures.Kept(frames, dataset, one, shown, records)
                if kind == "profile":
                    figures.profile(kept, path, row)
                elif kind == "crops":
                    figures.crops(kept, path, box, frame)
                else:
                    summary = self._summary(records, None, [dataset], None)
                    figures.teaser(kept, summary, path, box, frame)
            elif kind == "video":
                sources = figures.open_kept_frames(frames, dataset, one, shown, records)
                titles = figures.titles_of(records, sources)
                if methods:
                    sources = {name: sources[name] for name in methods}
                fps = max(r.fps for r in quality if (r.dataset, r.clip) == (dataset, one))
                pictures = {titles[name]: source for name, source in sources.items()}
                shown_frames = moving.arrange(pictures, how, box, fps or FPS)
                rows = moving.count_rows(how, len(pictures))
                moving.write(shown_frames, path, fps or FPS, limit_mib, rows)
            elif kind == "scatter":
                summary = self._summary(records, shown, [dataset], None)
                figures.scatter(summary, path, x, metric, dataset)
            else:
                figures.drift(records, dataset, shown, path, metric, one)
        return path

    def _place(self, out: str | Path | None, name: str, form: str) -> Path:
        """Where a figure goes: `out`, with the suffix of a format if it has none."""
        name = name.replace("/", "-")  # the end of a path, where two datasets have one name
        path = Path(out) if out else self.folder / "figures" / f"{shorten_name(name)}.{form}"
        return path if path.suffix else path.with_name(f"{path.name}.{form}")

    def report(
        self,
        out: str | Path | None = None,
        *,
        methods: Names = None,
        datasets: Names = None,
        metrics: Names = None,
        images_mib: float | None = None,
        vote: bool = False,
        say: Callable[[str], None] = note,
    ) -> Path:
        """One HTML file that opens without network; its path comes back.

        images_mib: what all pictures may take. vote: with a blind vote on pairs of pictures. say:
        told what is being done.
        """
        from vsrbench.show import report

        records = self.records()
        summary = self._summary(records, methods, datasets, metrics)
        path = Path(out) if out else self.folder / "report.html"
        budget = report.BUDGET_MIB if images_mib is None else images_mib
        report.build(summary, records, self.store, path, budget, say, vote)
        self._say_notices()
        return path

    def compare(
        self,
        base: str | Path | Results,
        *,
        methods: Names = None,
        datasets: Names = None,
        metrics: Names = None,
        tolerances: Mapping[str, float] | None = None,
        cost_percent: float | None = None,
    ) -> Comparison:
        """These results held against a base, clip by clip.

        tolerances: metric -> what counts as unchanged, in printed units, instead of the metric's
        own. cost_percent: also judge time, memory and energy, with this tolerance. Raises
        DataError for damaged lines on either side.
        """
        from vsrbench.results import compare

        other = base if isinstance(base, Results) else load(base, self.root)
        before, now = set[str](), set[str]()
        changes = compare.compare(
            other._read_strictly(before),
            self._read_strictly(now),
            methods,
            datasets,
            metrics,
            dict(tolerances or {}),
            cost_percent,
        )
        software = explain_software(other.store.software(before), self.store.software(now))
        return Comparison(tuple(changes), software)


def _colour() -> bool:
    """Whether stdout shows colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def known_specs(root: Path, names: Iterable[str]) -> dict[str, DatasetSpec]:
    """The specs of these datasets; without those that are none, or damaged."""
    found = {}
    for name in dict.fromkeys(names):
        with suppress(UserError):
            found[name] = dataset_spec(root, name)
    return found


@contextmanager
def write_clearly(path: Path) -> Iterator[None]:
    """Around the writing of a file: its folder is made, errors of the disk are one clear line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "choose another file: -o"
        ) from error

"""What is still to do: jobs out of methods, clips, metrics and what the store already holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vsrbench.cards.code import digest_code
from vsrbench.cards.specs import GT_CARD
from vsrbench.core import keys
from vsrbench.core.errors import UserError
from vsrbench.core.types import Asked, Clip, MethodCard, MetricInfo
from vsrbench.data.datasets import Dataset
from vsrbench.data.frames import find_alteration, lq_of, read_mark
from vsrbench.data.selection import name_folder
from vsrbench.metrics import metric_info
from vsrbench.programs import command
from vsrbench.results.summary import BASELINE
from vsrbench.results.view import Places, find_asked
from vsrbench.run.method import check_size, set_scale

EXACT_FLOW = "exact"


@dataclass(frozen=True)
class Made:
    """What the frames of a method come from, beside its card."""

    weights_sha256: str = ""
    """Hash of the weights, or state of a program; empty without."""
    code: str = ""
    """Digest of the adapter's code; empty where none runs here."""


@dataclass(frozen=True)
class Job:
    """One method on one clip: the scores that are still missing, from one pass over the frames."""

    card: MethodCard
    clip: Clip
    made_by: Made
    """What the card's frames come from."""
    dataset_source: str
    """Path of a dataset without a spec."""
    todo: tuple[MetricInfo, ...]
    """Metrics to compute."""
    refused: Mapping[str, UserError]
    """Metrics that cannot be computed for this clip, with the reason."""
    flow: str
    """Identity of the reference's flow estimator; `exact` where motion is known."""
    depends: Mapping[str, str]
    """Metric -> what it depends on besides (`metrics.depends_on`)."""
    frames: Path
    """Where its SR frames are or would be kept."""
    place: str
    """The same below the folder of frames."""
    keep: bool
    """Frames are to be kept and are not yet."""
    reuse: bool
    """Frames of an earlier run are there and serve instead of running the method."""
    error: UserError | None = None
    """Why the method cannot run on the clip at all."""

    @property
    def kept(self) -> dict[Path, str]:
        """Folder -> identity of the frames that it keeps: the output; with that of bicubic, LQ."""
        lq = {}
        if self.card.name == BASELINE and self.clip.lq:
            lq = {lq_of(self.frames): self.clip.digest}
        return {self.frames: self.output_key, **lq}

    @cached_property
    def output_key(self) -> str:
        """Identity of the SR frames."""
        outputs = scores_outputs(self.card)
        weights_sha256 = self.clip.outputs_digest if outputs else self.made_by.weights_sha256
        return keys.output_key(self.card, weights_sha256, self.made_by.code, self.clip)

    def flow_of(self, metric: MetricInfo) -> str:
        """Identity of the flow that a metric uses, or of whatever else it depends on."""
        return self.flow if "flow" in metric.needs else self.depends[metric.name]

    def quality_key(self, metric: MetricInfo) -> str:
        """Identity of one score."""
        flow = self.flow_of(metric)
        return keys.quality_key(self.output_key, metric, self.clip.border_px, flow)


def scores_outputs(card: MethodCard) -> bool:
    """True for a card that stands for the outputs attached to the clips, not for GT."""
    return card.kind == "frames" and card.name != GT_CARD.name


def is_kept(folder: Path, output_key: str) -> bool:
    """True if `folder` holds the whole output with this identity, every frame as it was written."""
    return is_marked(folder, output_key) and not find_alteration(folder)


def is_marked(folder: Path, output_key: str) -> bool:
    """True if the output with this identity was kept in `folder`, whatever became of it."""
    return folder.is_dir() and read_mark(folder).output_key == output_key


def plan(
    cards: Sequence[MethodCard],
    dataset: Dataset,
    metrics: Sequence[str],
    missing: Mapping[str, UserError],
    done: Mapping[str, str],
    frames: Path,
    places: tuple[Places, Places],
    keep_frames: bool,
    fresh: bool,
    flow: str,
    depends: Mapping[str, str],
) -> tuple[list[Job], list[Asked]]:
    """(jobs, all results asked for): GT and every card on every clip; jobs leave out what is done.

    missing: metrics whose weights are not here. done: key -> why it was skipped, empty for what is
    done. frames, places: where frames are kept, by method and by dataset. flow: identity of the
    estimator for clips whose motion is not known. depends: what each metric depends on besides.
    fresh: kept frames of earlier runs do not serve.
    """
    jobs: list[Job] = []
    asked: list[Asked] = []
    spec = dataset.spec
    broken = dataset.broken | dataset.unpaired
    clips = [*dataset.clips, *(_broken_clip(dataset, name) for name in broken)]
    for card in [GT_CARD, *cards]:
        identity = identify_made(card)
        way = "".join(f"-{word}" for word in find_asked(card.title).split(", ") if word)
        own = f"{places[0].of(card.name, card.source)}{way}"  # each engine keeps its own
        folder = f"{own}/{places[1].of(spec.name, spec.path)}"
        for clip in clips:
            error = broken.get(clip.name)
            if card is GT_CARD and clip.gt is None:
                continue
            if clip.name in dataset.unpaired and not scores_outputs(card):
                continue
            place = f"{folder}/{name_folder(clip)}"
            about = (spec.path, frames / place, place)
            job = _job(card, clip, metrics, missing, error or identity, about, flow, depends)
            found = {name: job.quality_key(metric_info(name)) for name in metrics}
            todo = tuple(m for m in job.todo if done.get(found[m.name]) != "")
            refused = {
                name: why
                for name, why in job.refused.items()
                if done.get(found[name]) != why.message
            }
            serves = bool(todo) or keep_frames
            reuse = serves and not fresh and all(is_kept(*kept) for kept in job.kept.items())
            keep = keep_frames and job.error is None and not reuse
            asked.append(Asked(card.name, found, card.source, spec.name, spec.path, clip.name))
            if todo or refused or keep:
                jobs.append(replace(job, todo=todo, refused=refused, keep=keep, reuse=reuse))
    return jobs, asked


def _broken_clip(dataset: Dataset, name: str) -> Clip:
    """Stands for a clip that could not be opened, so that its failure is on record."""
    spec = dataset.spec
    return Clip(spec.name, name, 0, (0, 0), spec.scale, 0.0, "", (), dataset_version=spec.version)


def identify_made(card: MethodCard) -> Made | UserError:
    """What the frames of a card come from, or why that cannot be told."""
    try:
        return Made(command.identify(card), digest_code(card))
    except UserError as error:
        return error


def _job(
    card: MethodCard,
    clip: Clip,
    metrics: Sequence[str],
    missing: Mapping[str, UserError],
    identity: Made | UserError,
    about: tuple[str, Path, str],
    flow: str,
    depends: Mapping[str, str],
) -> Job:
    error = identity if isinstance(identity, UserError) else None
    if error is None:
        try:
            card = set_scale(card, clip.scale)
            check_size(card, clip.size)
        except UserError as refusal:
            error = refusal
    refused = {}
    for name in metrics:
        why = missing.get(name) or (None if error else explain_unfit(metric_info(name), clip))
        if not why and not error and card.weights.origin == "random":
            why = UserError(f"'{card.name}' is untrained: cost only")
        if why:
            refused[name] = why
    return Job(
        card=card,
        clip=clip,
        made_by=Made() if isinstance(identity, UserError) else identity,
        dataset_source=about[0],
        todo=tuple(metric_info(m) for m in metrics if m not in refused),
        refused=refused,
        flow=EXACT_FLOW if clip.flow is not None else flow,
        depends=depends,
        frames=about[1],
        place=about[2],
        keep=False,
        reuse=False,
        error=error,
    )


def explain_unfit(metric: MetricInfo, clip: Clip) -> UserError | None:
    """Why a metric makes no sense for a clip; None when it does."""
    if lacks := _lacks_data(metric, clip):
        return lacks
    needs, but = find_too_little(metric, clip)
    return UserError(f"'{metric.name}' needs {needs} and {but}") if needs else None


def _lacks_data(metric: MetricInfo, clip: Clip) -> UserError | None:
    if "gt" in metric.needs and clip.gt is None:
        return UserError(f"'{metric.name}' needs ground truth and clip '{clip.name}' has none")
    if "lq" in metric.needs and not clip.lq:
        return UserError(f"'{metric.name}' needs LQ and clip '{clip.name}' has none")
    if metric.needs & {"flow", "reference"} and clip.gt is None and not clip.lq:
        return UserError(
            f"'{metric.name}' needs GT or LQ as reference and clip '{clip.name}' has neither"
        )
    return None


def find_too_little(metric: MetricInfo, clip: Clip) -> tuple[str, str]:
    """(what a metric needs of the frames of a clip, what is there); empty where they serve."""
    height, width = (side * (clip.scale or 1) - 2 * clip.border_px for side in clip.size)
    if "crop" not in clip.protocol:
        if min(height, width) < metric.smallest:
            return f"{metric.smallest} px a side", f"clip '{clip.name}' has {min(height, width)}"
        if max(height, width) < metric.longer:
            needs = f"{metric.longer}x{metric.smallest} px"
            return needs, f"clip '{clip.name}' has {width}x{height}"
    if metric.span != "frame" and clip.count == 1:
        return "two frames", f"clip '{clip.name}' has one"
    if metric.span != "frame" and "frames" in clip.protocol:
        return "successive frames", f"the rule is {clip.protocol['frames']}"
    return "", ""


def describe_left_out(metrics: Iterable[MetricInfo], clips: Sequence[Clip]) -> str:
    """Which of the metrics the frames of all clips are too small or too few for; empty for none.

    What data without GT or LQ allows is known beforehand, and not said.
    """
    by_need: dict[str, list[str]] = {}
    for metric in metrics:
        needs = [find_too_little(metric, clip)[0] for clip in clips]
        if needs and all(needs) and not any(_lacks_data(metric, clip) for clip in clips):
            by_need.setdefault(needs[0], []).append(metric.title)
    return ", ".join(
        f"{', '.join(titles)} ({'needs' if len(titles) == 1 else 'need'} {needs})"
        for needs, titles in by_need.items()
    )

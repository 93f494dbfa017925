"""One job to records: run the method once, feed every missing metric frame by frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vsrbench.cards.specs import GT_CARD
from vsrbench.core.errors import ContractError, MissingError, UserError, WriteError
from vsrbench.core.types import Clip, Method, Metric, MetricInfo, PairFlow, Record, Sample, Score
from vsrbench.data import frames
from vsrbench.data.outputs import frame_numbers
from vsrbench.metrics import about_pyiqa, load_metric, metric_info
from vsrbench.metrics.base import worst_second
from vsrbench.metrics.fidelity import best_shift
from vsrbench.run.delay import Delay
from vsrbench.run.method import foreign_error, upscale
from vsrbench.run.plan import EXACT_FLOW, Job, is_marked, scores_outputs
from vsrbench.run.scoring import Panel, Shared

if TYPE_CHECKING:
    from vsrbench.core.types import Frame
    from vsrbench.flow.estimators import Estimator


@dataclass
class Spent:
    """Where the wall time of a job went, s."""

    methods: float = 0.0
    """Until a method had its next frame, its loading included."""
    metrics: float = 0.0
    """Until metrics were loaded, and had scored what methods had made before."""

    @contextmanager
    def count(self, what: Literal["methods", "metrics"]) -> Iterator[None]:
        """Count what passes here."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)


@dataclass(frozen=True)
class Context:
    """What all jobs of a run share."""

    run_id: str
    device: str
    estimator: Estimator | None
    """Flow of clips whose motion is not known; None when no metric asks for it."""
    cache: Path
    """Folder of cached flow fields."""
    tick: Callable[[], None]
    """Called after every frame."""
    note: Callable[[str], None]
    """Takes what a user should know; the same line may come again and again."""
    preset: str = ""
    """Preset of metrics that was asked for."""
    spent: Spent = field(default_factory=Spent)
    """Takes where time goes."""


def timestamp() -> str:
    """UTC now, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def upscale_lq(clip: Clip) -> Sequence[Frame]:
    """The LQ frames of a clip, bicubic-upscaled; lazy."""
    return frames.Resized(clip.lq, (clip.size[0] * clip.scale, clip.size[1] * clip.scale))


def reference_frames(clip: Clip) -> Sequence[Frame]:
    """GT where there is one, else the bicubic-upscaled LQ, else the outputs themselves; lazy."""
    if clip.gt is None and not clip.lq and clip.outputs is not None:
        return clip.outputs
    return clip.gt if clip.gt is not None else upscale_lq(clip)


def evaluate(job: Job, method: Callable[[], Method], context: Context) -> Iterator[Record]:
    """Records of one job: refused metrics first, then one per metric. Never raises for a bad job.

    method: gives the loaded method when it is needed. Failures become records of every metric
    they touch: a metric that raises fails alone, flow that raises fails the metrics that need it.
    Raises UserError when frames were to be kept, could not be, and nothing was to be scored;
    WriteError when the disk refuses them.
    """
    started = time.perf_counter()
    for name, why in job.refused.items():
        yield _record(job, context, metric_info(name), "skipped", error_json(why))
    if job.error is not None:
        for metric in job.todo:
            yield _failed(job, context, metric, error_json(job.error))
        if job.keep and not job.todo:
            raise job.error
        return
    if not job.todo and not job.keep:
        return
    known = _find_known(job)
    # Not the exceptions themselves, which would hold on to the tensors of the code that failed.
    failures: dict[str, Mapping[str, str]] = {}
    running: dict[str, Metric] = {}
    for metric in job.todo:
        try:
            with context.spent.count("metrics"):
                running[metric.name] = known.get(metric.name) or load_metric(
                    metric.name, context.device
                )
        except Exception as error:
            failures[metric.name] = _failure(f"metric '{metric.name}'", "loading", error)
    reference = Shared(reference_frames(job.clip))
    flow = _flow(job, context, reference)
    panel = Panel(
        running,
        {m.name: _choose_frames(m, job.clip) for m in job.todo},
        {name for name in running if "flow" in metric_info(name).needs},
        None if flow is None else lambda t: _cut_flow(flow[t], job.clip.border_px),
        _failure,
    )
    blind, delay = not job.keep and len(known) == len(job.todo), Delay()
    try:
        with panel:
            for sample in () if blind else _samples(job, method, context, reference):
                with context.spent.count("metrics"):
                    panel.take(sample)
                delay.update(sample)
                context.tick()
            with context.spent.count("metrics"):
                panel.settle()
        failures |= panel.failures
    except WriteError:
        raise
    except Exception as error:
        at_clip = f"'{job.card.name}'", f"on clip '{job.clip.name}'"
        if not job.todo:
            raise _user_error(*at_clip, error)  # noqa: B904  # it has its cause
        failures = dict.fromkeys((m.name for m in job.todo), _failure(*at_clip, error))
    seconds = time.perf_counter() - started
    for metric in job.todo:
        if metric.name not in failures:
            try:
                with context.spent.count("metrics"):
                    score, extra = _score(job, context, metric, panel.metrics[metric.name])
            except Exception as error:
                who = f"metric '{metric.name}'"
                failures[metric.name] = _failure(who, "after the last frame", error)
        if metric.name in failures:
            yield _failed(job, context, metric, failures[metric.name], seconds)
            continue
        record = _record(job, context, metric, "ok", None, seconds)
        extra = {**record.extra, **extra, **delay.result()}
        coded = _coded(job, method)
        read = {**record.read, **({"outputs": coded} if coded else {})}
        yield replace(record, value=score.value, per_frame=score.per_frame, extra=extra, read=read)


def _coded(job: Job, method: Callable[[], Method]) -> Mapping[str, Any]:
    """In which files the frames of a program came, now or when they were kept."""
    if job.card.kind != "command":
        return {}
    return frames.read_mark(job.frames).read if job.reuse else dict(getattr(method(), "read", {}))


@dataclass(frozen=True)
class _Known:
    """Stands for a metric whose score needs no frames."""

    score: Score

    def update(self, sample: Sample) -> None:
        """Look away."""

    def result(self) -> Score:
        """The score."""
        return self.score


def _find_known(job: Job) -> dict[str, _Known]:
    """Metrics that say of GT, held against itself, what they say of every GT.

    They are not computed; where others need the frames, one that cannot be read fails them, too.
    """
    if job.card.name != GT_CARD.name or job.clip.gt is None:
        return {}
    fewer = {"frame": 0, "pair": 1}
    return {
        m.name: _Known(
            Score(m.same, (m.same,) * (len(_choose_frames(m, job.clip)) - fewer[m.span]))
        )
        for m in job.todo
        if m.same is not None and m.span in fewer
    }


def _choose_frames(metric: MetricInfo, clip: Clip) -> Set[int]:
    """Numbers of the frames that a metric is shown: by its rule, unless the clip brings another."""
    return set(frame_numbers("all" if "frames" in clip.protocol else metric.rule, clip.count))


def _score(
    job: Job, context: Context, metric: MetricInfo, running: Metric
) -> tuple[Score, dict[str, Any]]:
    """What a metric found, and what belongs beside it. Raises ContractError outside its range."""
    score = running.result()
    low, high = metric.range
    if not low <= score.value <= high:
        raise ContractError(
            f"'{metric.name}' gave {score.value}, outside {low}..{high}",
            "this is a defect of the metric or of its weights: please report it",
        )
    extra: dict[str, Any] = dict(score.extra)
    if job.clip.protocol or metric.rule != "all":
        rule = {"frames": metric.rule} if metric.rule != "all" else {}
        extra["protocol"] = rule | dict(job.clip.protocol)
    if "flow" in metric.needs:
        estimated = context.estimator if job.flow != EXACT_FLOW else None
        extra["flow"] = estimated.name if estimated else EXACT_FLOW
    if metric.span == "pair" and (
        worst := worst_second(score.per_frame, job.clip.fps, metric.better == "higher")
    ):
        extra |= {"worst_second": worst[0], "worst_second_at": worst[1]}
    if metric.name == "psnr":
        extra |= _registration(job)
    return score, extra


def _flow(job: Job, context: Context, reference: Sequence[Frame]) -> Sequence[PairFlow] | None:
    """Motion of the reference: exact where it is known; lazy."""
    clip = job.clip
    if clip.flow is not None or context.estimator is None:
        return clip.flow
    from vsrbench.flow.cache import ReferenceFlow

    return ReferenceFlow(reference, context.estimator, clip.digest, context.cache, context.note)


def _samples(
    job: Job, method: Callable[[], Method], context: Context, reference: Sequence[Frame]
) -> Iterator[Sample]:
    """Output frames next to LQ, GT and reference; kept on the way if the job says so."""
    clip, border = job.clip, job.clip.border_px
    is_gt = job.card.name == GT_CARD.name and clip.gt is not None
    if is_marked(job.frames, job.output_key) and (why := frames.find_alteration(job.frames)):
        context.note(f"kept frames in {job.frames} cannot be used, {why}: running the method again")
    kept = job.kept if job.keep else {}
    with ExitStack() as stack:
        writers: dict[Path, frames.FrameWriter] = {}
        for folder in kept:
            with _name_write_errors(folder):
                for file in (frames.mark_path(folder), frames.digests_path(folder)):
                    file.unlink(missing_ok=True)
            writers[folder] = stack.enter_context(frames.FrameWriter(folder, replace=True))
        for index, sr in enumerate(_outputs(job, method, context, reference)):
            for folder, writer in writers.items():
                writer.write(sr if folder == job.frames else clip.lq[index])
            target = _cut(sr if is_gt else reference[index], border)
            yield Sample(
                index=index,
                sr=target if is_gt else _cut(sr, border),
                lq=_cut(clip.lq[index], border // clip.scale) if clip.lq else None,
                gt=target if clip.gt is not None else None,
                reference=target,
                flow=None,
            )
    for folder, writer in writers.items():
        with _name_write_errors(folder):
            frames.write_sums(folder, writer.digests)
            coded = _coded(job, method) if folder == job.frames else {}
            frames.write_mark(folder, frames.Mark(kept[folder], coded))


@contextmanager
def _name_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}", "free some space") from error


def _outputs(
    job: Job, method: Callable[[], Method], context: Context, reference: Sequence[Frame]
) -> Iterator[Frame]:
    if scores_outputs(job.card) and job.clip.outputs is not None:
        return iter(job.clip.outputs)
    if job.card.name == "gt" and job.clip.gt is not None:
        return iter(reference)
    if job.reuse:
        return iter(frames.open_frames(job.frames))
    return _run_method(job, method, context)


def _run_method(job: Job, method: Callable[[], Method], context: Context) -> Iterator[Frame]:
    with context.spent.count("methods"):
        made = upscale(method(), job.card, job.clip, context.device)
    while True:
        with context.spent.count("methods"):
            frame = next(made, None)
        if frame is None:
            return
        yield frame


def _cut(frame: Any, border: int) -> Any:
    return frame[border:-border, border:-border] if border else frame


def _cut_flow(pair: PairFlow, border: int) -> PairFlow:
    if not border:
        return pair
    fields = {name: value for name, value in vars(pair).items() if value is not None}
    return replace(pair, **{name: _cut(value, border) for name, value in fields.items()})


def _registration(job: Job) -> dict[str, Any]:
    """The best shift against GT in the middle frame, of bicubic(LQ) or of existing outputs."""
    clip, middle = job.clip, job.clip.count // 2
    if clip.gt is None:
        return {}
    if scores_outputs(job.card) and clip.outputs is not None:
        frame = clip.outputs[middle]
    elif job.card.name == "bicubic":
        frame = upscale_lq(clip)[middle]
    else:
        return {}
    dy, dx, at_zero, at_best = best_shift(frame, clip.gt[middle])
    return {"shift": [dy, dx], "psnr_at_zero": at_zero, "psnr_at_shift": at_best}


def _read(**sides: Any) -> dict[str, dict[str, Any]]:
    """Codec and pixel format of the files behind a score, and whether something may be lost.

    What the harness itself makes, and keeps, is PNG.
    """
    found = {}
    for side, source in sides.items():
        while source is not None and hasattr(source, "source"):  # views and resized ones
            source = source.source
        if isinstance(source, frames.FrameSource):
            about = {"codec": source.codec, "pixels": source.pixel_format}
            found[side] = {**about, "lossy": frames.is_lossy(source)}
    return found


def _user_error(who: str, doing: str, error: Exception) -> UserError:
    return error if isinstance(error, UserError) else foreign_error(who, doing, error)


def _failure(who: str, doing: str, error: Exception) -> Mapping[str, str]:
    return error_json(_user_error(who, doing, error))


def error_json(error: UserError) -> Mapping[str, str]:
    """An error as a record keeps it; `log` is the traceback of what caused a failure."""
    found = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    if (log := error.cause()) and not isinstance(error, MissingError):
        found["log"] = log
    return found


def _failed(
    job: Job,
    context: Context,
    metric: MetricInfo,
    error: Mapping[str, str],
    seconds: float = 0.0,
) -> Record:
    """Skipped where something is missing that the score needs."""
    status = "skipped" if error["type"] == MissingError.__name__ else "failed"
    return _record(job, context, metric, status, error, seconds)


def _record(
    job: Job,
    context: Context,
    metric: MetricInfo,
    status: Any,
    error: Mapping[str, str] | None,
    seconds: float = 0.0,
) -> Record:
    card, clip = job.card, job.clip
    outputs = clip.outputs if scores_outputs(card) else None
    return Record(
        key=job.quality_key(metric),
        run_id=context.run_id,
        at=timestamp(),
        kind="quality",
        status=status,
        method=card.name,
        method_version=card.version,
        title=card.title,
        weights_origin=card.weights.origin,
        weights_sha256=job.made_by.weights_sha256,
        precision=card.precision,
        settings=dict(card.settings),
        dataset=clip.dataset,
        dataset_version=clip.dataset_version,
        clip=clip.name,
        clip_digest=clip.digest,
        frames=clip.count,
        size=clip.size,
        scale=clip.scale,
        metric=metric.name,
        metric_version=metric.version,
        unit=metric.unit,
        extra=about_pyiqa(metric),
        error=error,
        seconds=round(seconds, 3),
        source=card.source,
        dataset_source=job.dataset_source,
        code=job.made_by.code,
        output=job.output_key,
        place=job.place,
        reference="gt" if clip.gt is not None else "bicubic" if clip.lq else "outputs",
        border_px=clip.border_px,
        flow=job.flow_of(metric),
        read=_read(lq=clip.lq, gt=clip.gt, outputs=outputs),
        rule=str(clip.protocol.get("frames", "all")),
        preset=context.preset,
        fps=clip.fps,
    )

"""Metrics as functions of frames: `vsrbench.metrics.psnr(sr, gt)`, without a run or a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vsrbench.core.errors import DataError
from vsrbench.core.progress import counted
from vsrbench.core.types import PairFlow, Sample, Score, size_text
from vsrbench.metrics import load_metric, metric_info

if TYPE_CHECKING:
    from vsrbench.core.types import Frame

    Frames = str | Path | Sequence[Frame]


class MetricFunction(Protocol):
    """A metric as a function; see `score` for its arguments."""

    def __call__(
        self,
        sr: Frames,
        gt: Frames | None = None,
        *,
        lq: Frames | None = None,
        flow: Sequence[PairFlow] | None = None,
        border_px: int = 0,
        device: str = "cpu",
    ) -> Score:
        """Score one clip."""


def score(
    name: str,
    sr: Frames,
    gt: Frames | None = None,
    *,
    lq: Frames | None = None,
    flow: Sequence[PairFlow] | None = None,
    border_px: int = 0,
    device: str = "cpu",
) -> Score:
    """Score one clip with the metric called `name`; `float()` of the result is its mean.

    sr, gt, lq: frames as uint8 RGB, T x H x W x 3 or a sequence of H x W x 3, or the path of a
    folder of images or of a video. Metrics of motion take it from the reference (GT, else LQ
    upscaled, else `sr` itself): as `flow`, one entry for each pair of frames where it is known
    exactly, else by the estimator that a run would use. border_px: cut from each side. Values are
    those of a run on the same frames. Raises UserError for an unknown name, MissingError for what
    is not installed or not here, DataError for frames that cannot be scored.
    """
    from vsrbench.data.frames import Resized
    from vsrbench.flow.estimators import best_estimator

    info = metric_info(name)
    metric = load_metric(name, device)
    sr = frames_of(sr)
    gt, lq = (
        (frames_of(gt) if gt is not None else None),
        (frames_of(lq) if lq is not None else None),
    )
    for what, other in (("GT", gt), ("LQ", lq)):
        if other is not None and len(other) != len(sr):
            raise DataError(
                f"{counted(len(sr), 'frame')} and {len(other)} of {what}", "they pair one by one"
            )
    upscaled = Resized(lq, sr[0].shape[:2]) if lq is not None else None
    reference = gt if gt is not None else upscaled if upscaled is not None else sr
    estimator = best_estimator(device) if "flow" in info.needs and flow is None else None
    before: Frame | None = None
    for index, frame in enumerate(sr):
        own = reference[index]
        if own.shape != frame.shape:
            raise DataError(
                f"frame {index} is {size_text(frame.shape[:2])}, its reference "
                f"{size_text(own.shape[:2])}",
                "they are never cropped or resized silently",
            )
        pair = None
        if index and flow is not None:
            pair = flow[index - 1]
        elif before is not None and estimator is not None:
            pair = _as_kept(estimator.both(before, own))
        before = own
        target = _cut(own, border_px)
        metric.update(
            Sample(
                index=index,
                sr=_cut(frame, border_px),
                lq=_cut(lq[index], border_px * lq[index].shape[0] // frame.shape[0])
                if lq is not None
                else None,
                gt=target if gt is not None else None,
                reference=target,
                flow=cut_flow(pair, border_px) if pair is not None else None,
            )
        )
    return metric.result()


def frames_of(given: Any) -> Sequence[Frame]:
    """Frames of a path, an array or a sequence. Raises DataError for another type of pixels."""
    import numpy as np

    from vsrbench.data.frames import open_frames

    if isinstance(given, str | Path):
        return open_frames(Path(given))
    if not len(given):
        raise DataError("no frames")
    looked_at = given if isinstance(given, list | tuple) else [given[0]]
    for frame in map(np.asarray, looked_at):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise _explain_pixels(given, frame)
    frames: Sequence[Frame] = given
    return frames


def _explain_pixels(given: Any, frame: Any) -> DataError:
    """The error for frames of another shape or type of pixels, with what makes frames of them."""
    shape = "x".join(map(str, frame.shape))
    if frame.ndim == 2 and frame.shape[1] == 3 and not isinstance(given, list | tuple):
        return DataError(
            f"{len(given)}x{shape} is one frame, and frames are T x H x W x 3",
            "give x[None], or [x]",
        )
    if frame.ndim == 2:
        cure = "repeat grey as R, G and B: np.stack([x] * 3, -1)"
    elif frame.ndim == 3 and frame.shape[2] != 3 and frame.shape[0] == 3:
        cure = "channels are last: np.moveaxis(x, -3, -1)"
    elif frame.ndim != 3 or frame.shape[2] != 3:
        cure = "give T x H x W x 3, or a list of H x W x 3"
    else:
        cure = "scale to 0..255, round and convert: (255 * x).round().astype('uint8')"
    return DataError(f"frames are {frame.dtype} {shape}, not uint8 H x W x 3", cure)


def _as_kept(pair: PairFlow) -> PairFlow:
    """Rounded to half precision, as the flow of a run is, which is kept on disk."""
    import numpy as np

    forward, backward = (
        f.astype(np.float16).astype(np.float32) for f in (pair.forward, pair.backward)
    )
    return PairFlow(forward, backward)


def _cut(frame: Any, border: int) -> Any:
    return frame[border:-border, border:-border] if border else frame


def cut_flow(pair: PairFlow, border: int) -> PairFlow:
    """Motion without a border of that many px."""
    from dataclasses import replace

    if not border:
        return pair
    fields = {name: value for name, value in vars(pair).items() if value is not None}
    return replace(pair, **{name: _cut(value, border) for name, value in fields.items()})

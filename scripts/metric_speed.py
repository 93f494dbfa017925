"""Seconds a frame of each metric on this CPU: python scripts/metric_speed.py NAME,... GT_FOLDER

Frames are those of the folder; outputs are they, reduced by four and enlarged by Pillow's bicubic.
The first frame is not counted, as networks are loaded for it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from vsrbench.core.types import Sample
from vsrbench.metrics import load_metric, metric_info

FRAMES = 4


def main(names: str, folder: str) -> None:
    """Print a line for each metric."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    samples = []
    for number, path in enumerate(sorted(Path(folder).iterdir())[:FRAMES]):
        gt = Image.open(path).convert("RGB")
        small = gt.resize((gt.width // 4, gt.height // 4), Image.Resampling.BICUBIC)
        sr = np.asarray(small.resize(gt.size, Image.Resampling.BICUBIC))
        lq, truth = np.asarray(small), np.asarray(gt)
        samples.append(Sample(number, sr, lq, truth, truth, None))
    for name in names.split(","):
        metric = load_metric(name)
        metric.update(samples[0])
        started = time.process_time()
        for sample in samples[1:]:
            metric.update(sample)
        if metric_info(name).span == "clip":
            metric.result()
        seconds = (time.process_time() - started) / (len(samples) - 1)
        print(f"{name} {seconds:.3f} s a frame of {gt.width}x{gt.height}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

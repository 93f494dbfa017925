"""What tests take where ../shared/real is not there: files of the same names, made here.

Photographs of scikit-image that move, cut and named like the real clips, and networks with seeded
weights. Tests that know a number of the real ones ask for `shared` and are skipped instead.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from scipy.io import savemat
from skimage import data


def photo(name: str, height: int, width: int) -> np.ndarray:
    """A photograph, enlarged to cover a size."""
    picture = getattr(data, name)()[..., :3]
    factor = max(height / picture.shape[0], width / picture.shape[1])
    size = (int(np.ceil(picture.shape[1] * factor)), int(np.ceil(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)


def pan(name: str, count: int, height: int, width: int, step: int = 2) -> list[np.ndarray]:
    """Frames of a grainy photograph that moves by whole pixels, with noise of a camera."""
    rng = np.random.default_rng(0)
    big = photo(name, height + step * count, width + step * count).astype(np.float32)
    big += rng.normal(0, 12, big.shape).astype(np.float32)
    frames = [big[step * t :, step * t :][:height, :width] for t in range(count)]
    noisy = (frame + rng.normal(0, 3, frame.shape) for frame in frames)
    return [np.uint8(frame.clip(0, 255).round()) for frame in noisy]


def write(folder: Path, frames: list[np.ndarray], form: str) -> None:
    """Pictures named by `form` of their number."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / form.format(number)), frame[..., ::-1])


def encode(path: Path, frames: list[np.ndarray], rate: int, crf: str) -> None:
    """An H.264 video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": crf})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def make(folder: Path) -> Path:
    """The stand-ins below `folder`."""
    gt, lq = folder / "clips-gt", folder / "clips-lq"
    calendar = pan("coffee", 6, 576, 720)
    soft = [cv2.GaussianBlur(frame, (0, 0), 1.6) for frame in calendar]
    write(gt / "vid4-calendar", calendar, "{:03d}.png")
    write(gt / "vid4-calendar-lr-bd4", [frame[::4, ::4] for frame in soft], "{:04d}.png")
    write(gt / "vid4-calendar-rbpn-out", soft[:2], "{}_RBPNF7.png")
    write(gt / "vid4-city", pan("chelsea", 4, 576, 704), "{:03d}.png")
    write(gt / "davis-judo", pan("astronaut", 16, 480, 854), "{:05d}.jpg")
    write(gt / "sintel-raft-demo", pan("cat", 1, 436, 1024), "frame_{:04d}.png")
    for path in sorted((gt / "vid4-calendar").iterdir())[::-1]:  # the real ones count from 1
        path.rename(path.with_name(f"{int(path.stem) + 1:03d}.png"))
    for name in ("vid4-calendar-lr-bd4", "vid4-city"):
        for path in sorted((gt / name).iterdir())[::-1]:
            path.rename(path.with_name(f"{int(path.stem) + 1:0{len(path.stem)}d}.png"))
    (gt / "sintel-raft-demo/frame_0000.png").rename(gt / "sintel-raft-demo/frame_0016.png")
    encode(gt / "carphone_pristine.mp4", pan("rocket", 24, 144, 176), 30, "10")
    write(lq / "realbasicvsr-demo_000", pan("coffee", 3, 360, 640), "{:08d}.png")
    encode(lq / "dove-003.mp4", pan("coffee", 24, 128, 256), 16, "20")
    encode(lq / "dove-007.mp4", pan("chelsea", 12, 178, 316), 16, "20")
    weights(folder / "weights")
    return folder


def weights(folder: Path) -> None:
    """RAFT-small, a network of Real-ESRGAN and a model of NIQE, with seeded numbers."""
    from torchvision.models.optical_flow import raft_small

    folder.mkdir()
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), folder / "raft-small.pth")
    compact = import_module("spandrel.architectures.Compact.__arch.SRVGG").SRVGGNetCompact
    net = compact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4)
    torch.save({"params": net.state_dict()}, folder / "realesr-animevideov3.pth")
    rng = np.random.default_rng(0)
    mean, spread = rng.uniform(0.2, 3, (1, 36)), rng.normal(size=(36, 80)) / 3
    covariance = spread @ spread.T
    savemat(
        folder / "niqe_modelparameters.mat", {"mu_prisparam": mean, "cov_prisparam": covariance}
    )
    np.savez(folder / "niqe_pris_params.npz", mu_pris_param=mean, cov_pris_param=covariance)

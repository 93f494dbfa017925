"""What runs in the environments of DOVER and FAST-VQA, by itself; whole clips: test_command.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vsrbench.metrics import bridge


def test_views_are_normalised_and_cut_into_clips() -> None:
    view = np.random.default_rng(0).integers(0, 256, (3, 8, 2, 5))
    found = bridge.normalised(torch.from_numpy(view), 4, "cpu")
    assert found.is_contiguous()
    assert tuple(found.shape) == (4, 3, 2, 2, 5)
    mean, std = (np.reshape(v, (3, 1, 1, 1)) for v in (bridge.MEAN, bridge.STD))
    for clip in range(4):
        want = (view[:, 2 * clip : 2 * clip + 2] - mean) / std
        np.testing.assert_allclose(found[clip].numpy(), want, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_that_is_named_by_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bridge.checkpoint("./weights/net.pth") == "./weights/net.pth"
    assert bridge.checkpoint("./weights/3D_1*1.pth") == "./weights/3D_1_1.pth"
    (tmp_path / "weights").mkdir()
    for name in ("3D_1-1.pth", "3D_1x1.pth"):
        (tmp_path / "weights" / name).touch()
    assert bridge.checkpoint("./weights/3D_1*1.pth") == "weights/3D_1-1.pth"

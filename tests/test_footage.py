"""The dataset `footage`: made of a video as its table says, and read from the cache afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vsrbench.cards import specs
from vsrbench.core.errors import MissingError
from vsrbench.data import datasets, footage
from vsrbench.data.frames import open_frames


def test_clips_are_cut_cropped_degraded_and_kept(
    real: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = real / "clips-gt/carphone_pristine.mp4"
    monkeypatch.setenv("VSRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VSRBENCH_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    shutil.copy(video, tmp_path / "mine/bikes.mp4")
    cut = footage._Cut("bikes.mp4", 4, (8, 16), "mild", "0" * 64)
    monkeypatch.setattr(footage, "CUTS", {"toy": cut})
    monkeypatch.setattr(footage, "SIZE", (128, 128))
    said: list[str] = []
    (clip,) = datasets.open_dataset(specs.dataset_spec(root, "footage"), said.append).clips
    assert (clip.name, clip.count, clip.size, clip.scale) == ("toy", 12, (32, 32), 4)
    frames = open_frames(video)
    assert clip.gt is not None
    for t in range(12):
        assert np.array_equal(clip.gt[t], frames[4 + t][8:136, 16:144])
    assert said[0] == "degrading footage/toy (1 of 1)"
    assert "other pixels than with the pinned versions" in said[1]
    (tmp_path / "mine/bikes.mp4").unlink()
    again = footage.clips(tmp_path / "cache", said.append)[0]
    assert again.digest == clip.digest


def test_without_network_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"footage needs bigbuckbunny\.mp4"):
        footage.clips(tmp_path, lambda text: None)


def test_pinned_pixels(tmp_path: Path, registry: Callable[..., list[Path]]) -> None:
    """Digests of all clips, with the versions in constraints.txt."""
    registry(*(footage.make_need(cut.file) for cut in footage.CUTS.values()))
    said: list[str] = []
    made = footage.clips(tmp_path, said.append)
    assert [clip.digest for clip in made] == [cut.digest for cut in footage.CUTS.values()]

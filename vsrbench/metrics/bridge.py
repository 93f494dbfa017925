"""Runs inside the environment of DOVER or FAST-VQA, never in ours: scores one video file.

python bridge.py dover|fastervqa VIDEO RESULT.json, with the authors' checkout as working directory
and on PYTHONPATH. Writes raw outputs only; every printed scale is derived from them elsewhere.
"""

import json
import random
import sys
from pathlib import Path

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SAMPLINGS = 5
"""The samplers draw at random: seeds 0 to 4."""


def normalised(view, clips, device):
    """C x T x H x W in 0..255 as clips x C x T/clips x H x W, as ImageNet networks expect it."""
    import torch

    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (MEAN, STD))
    view = (view.float() - mean) / std
    return view.unflatten(1, (clips, -1)).transpose(0, 1).contiguous().to(device)


def checkpoint(path):
    """The file of weights; FasterVQA's options name it by a pattern, 3D_1*1 for 3D_1_1."""
    found = sorted(str(p) for p in Path().glob(path.replace("./", "", 1))) if "*" in path else []
    return found[0] if found else path.replace("*", "_")


def load(kind, device):
    """(evaluator, options of its data) as the options file of the checkout says."""
    import torch
    import yaml

    file, split = (
        ("dover.yml", "val-l1080p")
        if kind == "dover"
        else ("options/fast/f3dvqa-b.yml", "val-kv1k")
    )
    options = yaml.safe_load(Path(file).read_text())
    if kind == "dover":
        from dover.models import DOVER as Evaluator
    else:
        from fastvqa.models import DiViDeAddEvaluator as Evaluator
    # The constructor would download a pretrained backbone, all of which the checkpoint replaces.
    fetch = torch.hub.load_state_dict_from_url
    torch.hub.load_state_dict_from_url = lambda *_, **__: {"model": {}}
    try:
        net = Evaluator(**options["model"]["args"])
    finally:
        torch.hub.load_state_dict_from_url = fetch
    path = checkpoint(options["test_load_path"])
    state = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(state.get("state_dict", state))
    return net.eval().to(device), options["data"][split]["args"]


def dover(net, data, video, device):
    """Raw output of each branch by its name, so that no order of branches can be mistaken."""
    from dover.datasets import UnifiedFrameSampler, spatial_temporal_view_decomposition

    samplers = {}
    for name, given in data["sample_types"].items():
        pieces = given.get("t_frag")
        shape = (
            (given["clip_len"] // pieces, pieces, given["frame_interval"], given["num_clips"])
            if pieces
            else (given["clip_len"], given["num_clips"], given["frame_interval"])
        )
        samplers[name] = UnifiedFrameSampler(*shape)
    views, _ = spatial_temporal_view_decomposition(video, data["sample_types"], samplers)
    views = {
        name: normalised(view, data["sample_types"][name].get("num_clips", 1), device)
        for name, view in views.items()
    }
    return {name: out.mean().item() for name, out in zip(views, net(views), strict=True)}


def fastervqa(net, data, video, device):
    """The one raw output."""
    import decord
    import torch
    from fastvqa.datasets import FragmentSampleFrames, SampleFrames, get_spatial_fragments

    decord.bridge.set_bridge("torch")
    reader, views = decord.VideoReader(video), {}
    for name, given in data["sample_types"].items():
        # Versions of the options file keep these beside the sample types or inside of them.
        where = {**data, **given}
        pieces, clips = where.get("t_frag", 1), where.get("num_clips", 1)
        if pieces > 1:
            sampler = FragmentSampleFrames(
                fsize_t=where["clip_len"] // pieces, fragments_t=pieces, num_clips=clips
            )
        else:
            sampler = SampleFrames(clip_len=where["clip_len"], num_clips=clips)
        stack = torch.stack([reader[int(i)] for i in sampler(len(reader))]).permute(3, 0, 1, 2)
        views[name] = normalised(get_spatial_fragments(stack, **given), clips, device)
    return {"raw": net(views).mean().item()}


def main():
    """Score, and write the raw outputs of every sampling."""
    import numpy
    import torch

    kind, video, result = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, data = load(kind, device)
    runs = []
    for seed in range(SAMPLINGS):
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            score = dover if kind == "dover" else fastervqa
            runs.append(score(net, data, video, device))
    Path(result).write_text(json.dumps(runs))


if __name__ == "__main__":
    main()

"""The network that a config names, and how its flow network starts."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from vsrbench.cards.weights import load_strictly, read_checkpoint
from vsrbench.core.errors import UserError

from .config import Config


def build_network(config: Config) -> nn.Module:
    """The network of a config, initialised from its seed. Raises UserError, DataError."""
    torch.manual_seed(config.seed)
    module, _, name = config.network.partition(":")
    try:
        kind: type[nn.Module] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"network is '{config.network}': {error}",
            "write module:Class, as in vsrbench.methods.instavsr.network:InstaVSR",
        ) from error
    try:
        net = kind(**config.config)
    except Exception as error:  # networks check their arguments in ways of their own
        text = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{config.network} cannot be built: {type(error).__name__}: {text}", "correct [config]"
        ) from error
    if not hasattr(flow_network(net), "basic_module"):
        raise UserError(f"{config.network} has no SpyNet", "name a video network, or SpyNet itself")
    motion_detectors_(flow_network(net))
    for file, part in ((config.flow_init, flow_network(net)), (config.init, net)):
        if file:
            load_strictly(part, read_checkpoint(Path(file))[0], file)
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def flow_network(net: nn.Module) -> nn.Module:
    """The flow network inside `net`, or `net` itself when it is one."""
    return getattr(net, "spynet", net)


@torch.no_grad()
def motion_detectors_(flow_net: nn.Module) -> None:
    """Initialise every level of a SpyNet as a crude detector of small motion.

    From random weights the flow loss stays at that of zero flow for thousands of steps, since
    motion follows from products of slopes in space and time, a and b, that ReLU layers must find
    first. Here |a + b| - |a - b| = 2 sign(ab) min(|a|, |b|), summed over a window, votes for the
    direction along each axis (channels 0..3 of the hidden layers: right, left, down, up). All
    other weights are random. Contrast and gain below were chosen on training clips. Raises
    UserError for a network of less than 8, 4, 4, 4 channels.
    """
    contrast, gain, other = 3.0, 0.8, 0.3
    smooth, slope = torch.tensor((1.0, 2.0, 1.0)) / 4, torch.tensor((-1.0, 0.0, 1.0)) / 2
    luma = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
    along_x = luma * F.pad(torch.outer(smooth, slope), (2, 2, 2, 2)) / 2
    in_time = luma * F.pad(torch.outer(smooth, smooth), (2, 2, 2, 2)) * contrast
    for level in flow_net.get_submodule("basic_module").children():
        convs = [m for m in level.modules() if isinstance(m, nn.Conv2d)]
        if any(c.out_channels < n for c, n in zip(convs, (8, 4, 4, 4), strict=False)):
            raise UserError("the flow network is too narrow", "widths of at least 8, 4, 4, 4")
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu").mul_(other)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        edges, votes, *passed, out = (conv.weight for conv in convs)
        edges[:8], votes[:4], out[:] = 0, 0, out / 5
        out[:, :4] = 0
        for axis, in_space in enumerate((along_x, along_x.mT)):
            signs = [(a, b) for a in (1, -1) for b in (1, -1)]
            for i, (both, time_sign) in enumerate(signs):
                edge = edges[4 * axis + i]
                edge[:3] = both * in_space + time_sign * in_time
                edge[3:6] = both * in_space - time_sign * in_time
                same = both * time_sign
                votes[2 * axis, 4 * axis + i] = same * 2 / 49
                votes[2 * axis + 1, 4 * axis + i] = -same * 2 / 49
            out[axis, 2 * axis, 3, 3], out[axis, 2 * axis + 1, 3, 3] = gain, -gain
        for weight in passed:
            weight[:4] = 0
            weight[range(4), range(4), 3, 3] = 1

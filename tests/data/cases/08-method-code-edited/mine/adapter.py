import torch.nn.functional as F


class M:
    def upscale(self, frames):
        for x in frames:
            yield F.interpolate(x[None], scale_factor=4, mode="bilinear")[0]


def load(card, device, dtype):
    return M()

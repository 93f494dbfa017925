"""What a step minimises: the terms that a stage weighs, and the networks that only training has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsrbench.core.errors import MissingError, UserError

from ..instavsr.network import Backbone
from .adversaries import (
    Critic,
    Encoder,
    PixelCritic,
    critic_loss,
    generator_loss,
    gradient_penalty,
)
from .batch import SCALE, Batch
from .config import Config, Stage
from .losses import (
    Latents,
    charbonnier,
    end_point_error,
    pairs,
    perceptual_distance,
    warping_loss,
)
from .networks import flow_network


def flow_error(net: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
    """End-point error of the flow network on one random pair of each window, either direction."""
    i = int(rng.integers(batch.lq.shape[1] - 1))
    a, b, true, valid = batch.lq[:, i], batch.lq[:, i + 1], batch.forward, batch.valid_forward
    if rng.integers(2):
        a, b, true, valid = b, a, batch.backward, batch.valid_backward
    return end_point_error(flow_network(net)(a, b), true[:, i], valid[:, i])


class Objective:
    """The loss terms of a network, with its encoder and critics, as far as some stage needs them.

    bf16: run the networks in bfloat16. Raises UserError where a term does not fit the network.
    """

    def __init__(self, config: Config, net: nn.Module, device: torch.device, bf16: bool) -> None:
        self.net, self.device, self.bf16 = net, device, bf16
        backbone = getattr(net, "backbone", None)
        needs_latents = any(s.autoencode or s.latent or s.latent_gan for s in config.stages)
        if needs_latents and not isinstance(backbone, Backbone):
            raise UserError(f"{config.network} has no latents", "leave their terms out")
        self.helpers = nn.ModuleDict()
        if isinstance(backbone, Backbone) and needs_latents:
            self.helpers["encoder"] = Encoder(backbone, config.encoder_depth)
            width = backbone.unet.conv_out.out_channels
            if any(s.latent_gan for s in config.stages):
                self.helpers["latent_critic"] = Critic(width, config.critic_widths)
        if any(s.pixel_gan for s in config.stages):
            self.helpers["pixel_critic"] = PixelCritic(config.critic_widths)
        self.helpers.to(device)
        self.perceptual, self.distance = perceptual_distance(device)

    @property
    def critics(self) -> list[nn.Module]:
        """Those among the helpers."""
        return [self.helpers[name] for name in self.helpers if name.endswith("_critic")]

    def autocast(self) -> torch.autocast:
        """The context in which the networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def terms(
        self, stage: Stage, step: int, batch: Batch, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """(loss terms that the stage weighs, what each critic is to tell apart: real and made)."""
        lazy = step % stage.lazy == 0
        terms: dict[str, Tensor] = {}
        judged: dict[str, tuple[Tensor, Tensor]] = {}
        if stage.flow:
            terms["flow"] = flow_error(self.net, batch, rng)
        gt, lq = batch.gt.flatten(0, 1), batch.lq.flatten(0, 1)
        true = None
        if stage.autoencode or stage.latent or stage.latent_gan:
            with self.autocast():
                image, true = self.through_encoder(stage, gt, lq)
            if stage.autoencode:
                terms["autoencode"] = charbonnier(image, gt)
        if not stage.runs_network:
            if stage.invert:
                with torch.no_grad(), self.autocast(), Latents(self.net) as latents:
                    self.net(batch.lq)
                terms["invert"] = self.inversion_loss(stage, latents, lq)
            return terms, judged
        if true is None:
            with self.autocast():
                sr = self.net(batch.lq)
        else:
            with self.autocast(), Latents(self.net) as latents:
                sr = self.net(batch.lq)
            made = latents.stack().flatten(0, 1).float()
            real = true.detach().float()
            if stage.invert:
                terms["invert"] = self.inversion_loss(stage, latents, lq)
            if stage.latent:
                terms["latent"] = (made - real).abs().mean()
            if stage.latent_gan:
                terms["latent_gan"] = generator_loss(self.helpers["latent_critic"], made)
                judged["latent_critic"] = real, made.detach()
        sr = sr.float()
        frames = sr.flatten(0, 1)
        if stage.pixel:
            terms["pixel"] = charbonnier(frames, gt)
        if stage.perceptual:
            terms["perceptual"] = self.distance(frames, gt)
        if stage.distill:
            if batch.teacher is None:
                raise MissingError(
                    "the pool holds no frames of a teacher",
                    "make them: python -m vsrbench.methods.training.pool POOL --teacher METHOD",
                )
            teacher = batch.teacher.flatten(0, 1)
            terms["distill"] = charbonnier(frames, teacher) + self.distance(frames, teacher)
        if stage.pixel_gan:
            made = pairs(sr, batch)
            terms["pixel_gan"] = generator_loss(self.helpers["pixel_critic"], made)
            judged["pixel_critic"] = pairs(batch.gt, batch), made.detach()
        if stage.temporal:
            terms["temporal"] = warping_loss(sr, batch)
        if stage.cyclic and lazy:
            with self.autocast():
                again = self.net(F.avg_pool2d(frames, SCALE).unflatten(0, sr.shape[:2]))
            # Its weight is that of a term taken at every step.
            terms["cyclic"] = stage.lazy * warping_loss(again.float(), batch)
        return terms, judged

    def inversion_loss(self, stage: Stage, latents: Latents, lq: Tensor) -> Tensor:
        """How far the encoder is from giving back the latents of the network's own pictures."""
        pictures = latents.pictures().flatten(0, 1)[:, :3].detach()
        with self.autocast():
            again = self.through_encoder(stage, pictures.float(), lq)[1]
        return (again.float() - latents.stack().flatten(0, 1).detach().float()).abs().mean()

    def through_encoder(self, stage: Stage, gt: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        """GT (n, 3, 4h, 4w) through encoder and decoder: (the image in 0..1, its latents).

        While the network itself is trained, its decoder is not trained by this.
        """
        backbone = self.net.get_submodule("backbone")
        assert isinstance(backbone, Backbone)
        parameters = [p for p in backbone.decoder.parameters() if p.requires_grad]
        for p in parameters if stage.runs_network else ():
            p.requires_grad_(False)
        with Latents(self.net) as latents:
            image = backbone.decoded(self.helpers["encoder"](gt, lq), lq)
        for p in parameters:
            p.requires_grad_(True)
        return image[:, :3].float(), latents.stack()[:, 0]

    def critic_terms(
        self, stage: Stage, step: int, sides: Mapping[str, tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The critics' own losses; their gradient penalties at every `lazy`-th step."""
        terms = {}
        for name, (real, made) in sides.items():
            terms[name] = critic_loss(self.helpers[name], real, made)
            if stage.r1 and step % stage.lazy == 0:
                penalty = gradient_penalty(self.helpers[name], real)
                terms[name.replace("_critic", "_r1")] = penalty
        return terms

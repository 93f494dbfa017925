"""A picture on a sheet, pixel for pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist

if TYPE_CHECKING:
    from matplotlib.backend_bases import RendererBase

    from vsrbench.core.types import Frame


class Pixels(Artist):
    """Draws each pixel of a picture as one of the figure: no resampling, in whichever format.

    matplotlib's own images are resampled first, which takes longer than all else on a sheet.
    """

    def __init__(self, picture: Frame, x: int, y: int) -> None:
        """x, y: of the top left corner on the axes, which count px downwards."""
        super().__init__()
        self._rgba = np.full((*picture.shape[:2], 4), 255, np.uint8)
        self._rgba[..., :3] = picture[::-1]  # from the bottom up
        self._corner = (x, y + picture.shape[0])

    def draw(self, renderer: RendererBase) -> None:
        """Called by matplotlib."""
        assert self.axes is not None
        left, bottom = self.axes.transData.transform(self._corner)
        gc = renderer.new_gc()
        renderer.draw_image(gc, left, bottom, self._rgba)
        gc.restore()

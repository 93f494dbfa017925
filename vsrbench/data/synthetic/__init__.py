"""The embedded dataset `synthetic`, and the stream of scenes that networks are trained on.

Both are rendered from seeds by the same engine; photographs and seeds of the tests never occur in
training. Everything is computed in float64 and rounded once: processors differ in the last bits of
a sine or a filter, which float32 would carry into the pixels. So all render the same frames.
"""

from vsrbench.data.synthetic.engine import Layer, Motion, Scene
from vsrbench.data.synthetic.stream import random_scene
from vsrbench.data.synthetic.testset import NAME, VERSION, clips, scene
from vsrbench.data.synthetic.textures import TEXTURES

__all__ = [
    "NAME",
    "TEXTURES",
    "VERSION",
    "Layer",
    "Motion",
    "Scene",
    "clips",
    "random_scene",
    "scene",
]

"""The embedded test set `synthetic`, and the stream of scenes that networks are trained on.

Both are rendered from seeds by the same engine; photographs and seeds of the tests never occur in
training. Everything is computed in float64 and rounded once: processors differ in the last bits of
a sine or a filter, which float32 would carry into the pixels. So all of them render the same frames.
"""

from vsrbench.data.synthetic.stream import random_scene
from vsrbench.data.synthetic.testset import NAME, VERSION, clips, scene

__all__ = ["NAME", "VERSION", "clips", "random_scene", "scene"]

"""Values of ST-LPIPS and BRISQUE by the packages' own code, as tests/test_metrics.py has them.

In an environment of its own: pip install torch scikit-image opencv-python-headless brisque==0.2.0,
and unpack the wheel stlpips-pytorch==0.0.2 into a folder that is then the argument; it imports two
packages that it does not use and does not declare.

    python record_registry.py FOLDER
"""

import contextlib
import io
import sys
import types

import cv2
import numpy as np
import torch
from skimage import data


def main(folder: str) -> None:
    """Print the values."""
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        module = types.ModuleType(name)
        setattr(module, attribute, None)
        sys.modules[name] = module
    sys.path.insert(0, folder)
    cat = np.ascontiguousarray(data.chelsea()[20:276, 60:380])
    small = cv2.resize(cat, (80, 64), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (320, 256), interpolation=cv2.INTER_CUBIC)
    pair = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (cat, soft)]
    from stlpips_pytorch import stlpips

    for net in ("alex", "vgg"):
        with contextlib.redirect_stdout(io.StringIO()):
            model = stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False)
        with torch.inference_mode():
            print(net, float(model(*pair, normalize=True)))
    import brisque.brisque as module

    # numpy 2.4 refuses float() of arrays of one element, which the package calls.
    module.float = lambda value: np.asarray(value, dtype=np.float64).item()
    model = module.BRISQUE(url=False)
    print("brisque", *(model.score(x) for x in (cat, soft)))


if __name__ == "__main__":
    main(*sys.argv[1:])

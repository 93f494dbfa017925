"""The Python interface: what the command line does, as functions and one object for results.

results = vsrbench.evaluate({"mine": my_method}, (lq, gt), metrics=["psnr", "ewarp"])
print(results.table())
results.to_frame()
"""

from vsrbench.api.results import (
    FIGURES,
    FORMS,
    Comparison,
    Results,
    default_results,
    known_specs,
    load,
)
from vsrbench.api.running import evaluate

__all__ = [
    "FIGURES",
    "FORMS",
    "Comparison",
    "Results",
    "default_results",
    "evaluate",
    "known_specs",
    "load",
]

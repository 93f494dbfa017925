"""Serves clips from a model that is loaded once, in the environment of the model, never in ours.

    python worker.py LOSSLESS PROGRAM

PROGRAM is a Python file with `load(values)`, which gives the model, and `restore(model, values)`,
which reads the clip `values["input"]` and writes its frames below `values["output_dir"]`. Values
are what an argument list could name. Python 3.8 or newer, and numpy. Video writers are replaced
as in lossless.py, whose path is LOSSLESS.

One JSON object a line, on standard input and output. Each line that comes in holds the values of
a clip; one line answers it: {"seconds": of loading or of the clip, ...} or {"error": text}. The
first line that comes in loads the model. What the program prints goes to standard error.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path


def load_file(path):
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whoever prints must not answer
    load_file(sys.argv[1]).install()
    sys.path[0] = ""  # the working directory
    sys.argv = sys.argv[2:3]
    loaded = []  # the program and its model
    for line in sys.stdin:
        values, answer, started = json.loads(line), {}, time.perf_counter()
        try:
            if loaded:
                program, model = loaded
                program.restore(model, values)
            else:
                program = load_file(sys.argv[0])
                loaded = [program, program.load(values)]
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer["error"] = f"{type(error).__name__}: {error}"
        answer["seconds"] = time.perf_counter() - started
        print(json.dumps(answer), file=answers, flush=True)
        if not loaded:
            sys.exit(1)


if __name__ == "__main__":
    main()

"""What a score depends on besides this package: part of its identity.

Files are looked at and git may be asked; nothing is downloaded, and no network is built to name it.
"""

from __future__ import annotations

from vsrbench.cards.code import digest_entry
from vsrbench.cards.sources import find_problem
from vsrbench.core.files import content
from vsrbench.flow.identity import RAFT_FILES, best_identity, raft_identity
from vsrbench.metrics.availability import unavailable
from vsrbench.metrics.names import PYIQA, metric_info, pyiqa_version
from vsrbench.metrics.requirements import need_of, weights_here
from vsrbench.programs import command


def depends_on(name: str) -> str:
    """The flow estimator that a metric runs on the output itself, the commit of the checkout that
    it runs in, version and code of the package that brings it, the version of pyiqa for a metric by
    its name there, or the weights where these are not the file that is published; empty for others.
    """
    if (info := metric_info(name)).package:
        return f"{info.package}+{digest_entry(info.target)[:8]}"
    if name.startswith(PYIQA):
        return pyiqa_version()
    if "command" in metric_info(name).needs and unavailable(name) is None:
        return command.commit(name)
    if name == "ewarp_self":
        return best_identity()
    if name == "ewarp_evalcrafter" and (path := weights_here(name)):
        return raft_identity(RAFT_FILES[path.name], path)
    need = need_of(name)
    if need and (path := need.locate()) and path.name == need.name and find_problem(need, path):
        return f"{path.name}-{content(path)[:16]}"
    return ""

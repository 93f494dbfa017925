"""Why a metric cannot run here, if it cannot."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping

from vsrbench.core.download import open_url
from vsrbench.core.errors import MissingError, UserError, install_hint
from vsrbench.core.variables import OFFLINE, offline
from vsrbench.metrics.names import PYIQA, metric_info
from vsrbench.metrics.requirements import (
    HUB,
    PYIQA_PACKAGE,
    REQUIREMENTS,
    TIMEOUT_S,
    obtain_weights,
)
from vsrbench.metrics.table import METRICS
from vsrbench.programs import command


def unavailable(name: str, fetch: bool = True) -> MissingError | None:
    """Why a metric cannot run here, or None.

    With `fetch` weights that are not here are downloaded, one try per process, and its package is
    imported. Without, nothing is downloaded, and nothing imported but for metrics by their pyiqa
    name, which have to be made: quick enough for a listing.
    """
    if "command" in metric_info(name).needs:
        try:
            command.read_places(name)
        except UserError as error:
            return MissingError(error.message, error.hint)
        return None
    by_name = name.startswith(PYIQA)
    need = PYIQA_PACKAGE if by_name else REQUIREMENTS.get(name)
    if need is None:
        return None
    if need.package and importlib.util.find_spec(need.package) is None:
        return MissingError(f"{name} needs the package {need.install}", install_hint(need.package))
    try:
        if need.sources:
            obtain_weights(name, fetch)
    except MissingError as error:
        return error
    if need.package and (fetch or by_name) and (reason := _import_failure(need.package)):
        return MissingError(
            f"{name}: the package {need.install} cannot be imported: {reason}",
            f"reinstall it: pip install --force-reinstall {need.install}",
        )
    return _unmade(name, fetch) if by_name else None


def _unmade(name: str, fetch: bool) -> MissingError | None:
    """Why pyiqa cannot make a metric here, or None.

    Which files it takes shows only in the making: it is tried without network, then with it.
    """
    from vsrbench.metrics.perceptual import by_name

    whys: list[str] = []
    for network in (False, True) if fetch and not offline() else (False,):
        try:
            if whys:  # files that pyiqa gets by other ways than ours, which may try for minutes
                open_url(HUB, timeout_s=TIMEOUT_S).close()
            by_name(name.removeprefix(PYIQA), network)
            return None
        except MissingError as error:
            missing: MissingError | None = error
        except ImportError as error:
            return MissingError(f"pyiqa cannot make {name} here: {error}", "install what it needs")
        except Exception as error:
            missing, cause = None, _root(error)
            whys.append(f"{type(cause).__name__}: {cause}".splitlines()[0].partition(". To ")[0])
    if missing is not None:
        return missing
    more = [f"{OFFLINE}=1 forbids downloads"] if offline() else []
    return MissingError(
        f"pyiqa cannot make {name} here: {'; '.join([*whys, *more])}",
        "files that it lacks come with its first use where there is network, and stay in the "
        "caches of torch hub and Hugging Face",
    )


def _root(error: BaseException) -> BaseException:
    """What an error came from."""
    cause = error.__cause__ or error.__context__
    return _root(cause) if cause else error


@functools.cache
def _import_failure(package: str) -> str:
    """Why a package that is installed cannot be imported; empty if it can."""
    try:
        importlib.import_module(package)
    except Exception as error:
        # Packages built against other versions of torch or numpy fail in any way they like.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def all_unavailable(
    names: Iterable[str],
    ask: Callable[[list[str]], Mapping[str, MissingError]] | None = None,
) -> dict[str, MissingError]:
    """Those of `names` that cannot run here, and why; what is missing is fetched.

    ask: does the same for metrics whose packages are to be imported, in another process.
    """
    names = list(names)
    apart = [n for n in names if n not in METRICS or n in REQUIREMENTS] if ask else []
    found = dict(ask(apart)) if ask and apart else {}
    here = {n: why for n in names if n not in apart and (why := unavailable(n))}
    return {n: why for n in names if (why := found.get(n) or here.get(n))}

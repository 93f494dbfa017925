"""Keys, store, cards and layering: what everything else stands on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.million import write
from vsrbench.cards import specs
from vsrbench.cards.specs import GT_CARD
from vsrbench.core import keys, variables
from vsrbench.core.errors import DataError, MissingError, UserError, unknown_name
from vsrbench.core.processes import Died
from vsrbench.core.progress import Progress
from vsrbench.core.types import Clip, Measurement, MethodCard, Record, Weights
from vsrbench.data.selection import Selection
from vsrbench.metrics import METRICS, functions
from vsrbench.results.compare import compare
from vsrbench.results.store import Store
from vsrbench.results.summary import summarise
from vsrbench.results.view import latest


def a_card(**changes: object) -> MethodCard:
    card = MethodCard(name="toy", version=1, title="Toy", weights=Weights(origin="none"))
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]


def a_clip(**changes: object) -> Clip:
    clip = Clip("set", "clip", 3, (16, 24), 4, 24.0, "d1", ())
    return dataclasses.replace(clip, **changes)  # type: ignore[arg-type]


def a_record(**changes: object) -> Record:
    record = Record(
        key="k1",
        run_id="r",
        at="2026-01-01T00:00:00Z",
        kind="quality",
        status="ok",
        method="toy",
        method_version=1,
        title="Toy",
        weights_origin="none",
        weights_sha256="",
        precision="fp32",
        metric="psnr",
        value=30.5,
        per_frame=(30.0, 31.0),
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def test_golden_keys() -> None:
    """A changed key orphans everybody's records: bump KEY_VERSION when it is meant."""
    output = keys.output_key(a_card(), "abc", "code", a_clip())
    assert (keys.KEY_VERSION, output) == (2, "919feace94bf5e12")
    assert keys.quality_key(output, METRICS["psnr"], 0, "") == "54dba4a5cf782640"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"settings": {"tile": 64}},
        {"precision": "fp16"},
        {"window": 10},
        {"name": "other"},
    ],
)
def test_key_follows_what_changes_the_result(change: dict[str, object]) -> None:
    assert keys.output_key(a_card(**change), "", "", a_clip()) != keys.output_key(
        a_card(), "", "", a_clip()
    )


def test_key_ignores_where_things_are() -> None:
    here = keys.output_key(a_card(folder="a"), "abc", "code", a_clip())
    there = a_card(folder="b", title="T", paper="P", source="/c")
    assert here == keys.output_key(there, "abc", "code", a_clip())
    assert here != keys.output_key(a_card(), "other weights", "code", a_clip())
    assert here != keys.output_key(a_card(), "abc", "other code", a_clip())
    assert here != keys.output_key(a_card(), "abc", "code", a_clip(digest="d2"))
    slow, slower = (
        a_card(kind="command", settings={"timeout_s": s, "leave_out": ["*"] * s}) for s in (1, 2)
    )
    assert keys.output_key(slow, "", "", a_clip()) == keys.output_key(slower, "", "", a_clip())


def test_store_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "er")
    store.prepare()
    measurement = Measurement(
        "device", "cpu", (8, 8), 2, 1, 2, (1.0, 2.0), 1.5, 2.0, 3.0, 9.0, 1.0, 1.0, None, None, 0, 0
    )
    records = [
        a_record(extra={"valid_ratio": 0.9}),
        a_record(key="k2", kind="cost", measurement=measurement, value=None),
        a_record(key="k3", status="failed", value=None, error={"message": "m"}),
    ]
    for record in records:
        store.append(record)
    assert store.read() == records


def test_store_passes_over_a_cut_line_and_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(a_record())
    store.append(a_record(key="k2"))
    store.records.write_bytes(store.records.read_bytes()[:-40])  # power cut while writing
    assert [r.key for r in store.read()] == ["k1"]
    assert "cut line" in store.notices[0]
    store.append(a_record(key="k3"))
    assert [r.key for r in Store(tmp_path).read(strict=True)] == ["k1", "k3"]
    data = store.records.read_bytes()
    store.records.write_bytes(data[:-1])  # whole, but for its end
    store.append_all([a_record(key="k4"), a_record(key="k" * 200_000)])
    whole = store.records.read_bytes()
    assert whole.startswith(data)
    store.records.write_bytes(whole[:-20])
    store.append(a_record(key="k5"))
    assert [r.key for r in Store(tmp_path).read(strict=True)] == ["k1", "k3", "k4", "k5"]
    store.records.write_text("[" * 100_000)  # nested too deeply
    store.append(a_record(key="k6"))
    assert [r.key for r in Store(tmp_path).read(strict=True)] == ["k6"]


def test_without_locks_no_line_of_another_run_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    store = Store(tmp_path)
    store.append(a_record())
    cut = store.records.read_bytes()[:-40]
    store.records.write_bytes(cut)
    store.append(a_record(key="k2"))
    assert store.records.read_bytes().startswith(cut + b"\n")
    assert [r.key for r in store.read()] == ["k2"]


def test_versions_of_software_are_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        {"run_id": v, "env": {"python": "3.12", "cuda": None, "packages": {"torch": v}}}
        for v in ("2.6", "2.5")
    ]
    monkeypatch.setattr(Store, "read_runs", lambda _: runs)
    found = Store(tmp_path).software({"2.5", "2.6"})
    assert found == {"Python": "3.12", "torch": "2.5 and 2.6"}


@pytest.mark.parametrize(
    "line", ["5", "[]", "null", '{"key": "k"}', '{"schema": "x"}', "\x80", "{"]
)
def test_a_line_that_is_no_record_is_passed_over(line: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = json.dumps(a_record().to_json())
    store.records.write_bytes(f"{line}\n{good}\n".encode("latin-1"))
    for _ in range(2):
        assert [r.key for r in store.read()] == ["k1"]
    assert store.notices == [f"{store.records}:1: damaged line passed over"]
    with pytest.raises(DataError, match=r"records.jsonl:1 is damaged"):
        store.require(strict=True)
    store.records.write_text(f'{good}\n{{"key": "k2", "ru')  # only cut in writing
    assert len(store.require(strict=True)) == 1
    store.runs.write_text(f'{line}\n{{"run_id": "r", "env": {{}}}}\n', encoding="latin-1")
    assert store.code({"r"}) == ""


def test_store_reads_old_lines_and_refuses_newer_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    line = a_record().to_json()
    del line["extra"], line["seconds"]
    store.records.write_text(json.dumps(line | {"later_field": 1}) + "\n")
    assert store.read() == [a_record()]
    measurement = Measurement(
        "device", "cpu", (8, 8), 2, 1, 2, (1.0,), 1.5, 2.0, 3.0, 9.0, 1.0, 1.0, None, None, 0, 0
    )
    costs = line | {"kind": "cost", "measurement": dataclasses.asdict(measurement)}
    del costs["measurement"]["j_per_frame"]  # measured before there was energy
    store.records.write_text(json.dumps(costs) + "\n")
    assert store.read() == [a_record(kind="cost", measurement=measurement)]
    store.records.write_text(json.dumps(line | {"schema": 99}) + "\n")
    with pytest.raises(UserError, match="newer version"):
        store.read()


def test_store_never_writes_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Store(tmp_path).append(a_record(value=float("nan")))


def test_a_success_is_not_hidden_by_a_later_failure() -> None:
    ok, failed = a_record(), a_record(status="failed", value=None)
    assert latest([failed, ok])["k1"].status == "ok"
    assert latest([ok, failed])["k1"].status == "ok"
    assert latest([ok, a_record(value=1.0)])["k1"].value == 1.0


def test_unwritable_results_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file").prepare()


def test_unknown_names_get_a_suggestion(root: Path) -> None:
    assert "Did you mean 'psnr'?" in str(unknown_name("metric", "psrn", METRICS))
    with pytest.raises(UserError, match="Did you mean 'realviformer'"):
        specs.method_card(root, "realvifomer")
    with pytest.raises(UserError, match="Did you mean 'synthetic'"):
        specs.dataset_spec(root, "syntetic")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 1", "field 'title' is missing|table \\[weights\\] is missing"),
        ('version = 1\ntitle = "T"\n', "\\[weights\\] is missing"),
        ('version = 1\ntitle = "T"\n[weights]\n', "field 'origin' is missing"),
        ('version = 1\ntitle = "T"\n[weights]\norigin = "offical"\n', "origin is 'offical'"),
        ('version = "1"\ntitle = "T"\n[weights]\norigin = "none"\n', "version must be int"),
        ('version = 1\ntitel = "T"\n[weights]\norigin = "none"\n', "Did you mean 'title'"),
        ("version = = 1", "not valid TOML"),
    ],
)
def test_a_wrong_card_is_one_clear_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        specs.read_card(path)
    assert re.search(expected, str(caught.value))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_every_card_and_spec_reads(root: Path) -> None:
    cards = [specs.read_card(path) for path in specs.method_files(root).values()]
    assert {"bicubic", "lanczos", "nearest", "realviformer", "instavsr"} <= {c.name for c in cards}
    assert all(c.min_size >= c.multiple_of for c in cards), "reflection needs room"
    assert [specs.dataset_spec(root, n).name for n in specs.dataset_files(root)]
    assert GT_CARD.kind == "frames"


def test_missing_checkpoint_path(root: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        specs.method_card(root, "nowhere/net.pth")


NO_TORCH = (
    "core.types core.errors core.keys core.progress cards.weights cards.specs data.frames "
    "data.datasets data.outputs run.datacheck data.newset data.fetch run.plan results.store "
    "results.summary results.published results.compare show.tables show.figures show.report"
)


def test_reading_results_needs_no_torch(root: Path) -> None:
    names = ", ".join(f"vsrbench.{m}" for m in NO_TORCH.split())
    code = f"import sys, {names}, vsrbench.cli; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_user_has_does_not_reach_the_tests(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    mine = {"VSRBENCH_WEIGHTS": str(weights.parent), "TORCH_HOME": str(tmp_path)}
    mine |= {"VSRBENCH_UDM10": "/data", "VSRBENCH_DATA": "/data", "VSRBENCH_COMMANDS": "c.toml"}
    mine |= {"VSRBENCH_CACHE": "/kept", "VSRBENCH_OFFLINE": "0"}
    code = (
        "from vsrbench import metrics; print(metrics.unavailable('lpips', fetch=False) is None)\n"
        "import tests.conftest, os; print(metrics.unavailable('lpips', fetch=False) is None)\n"
        "print(*sorted(k + '=' + v for k, v in os.environ.items() if k.startswith('VSRBENCH')),"
        " sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | mine,
        capture_output=True,
        text=True,
    )
    first, second, *kept = done.stdout.splitlines()
    assert (first, second) == ("True", "False"), done.stderr
    cache, fetched, offline = kept
    assert (cache, offline) == ("VSRBENCH_CACHE=/kept", "VSRBENCH_OFFLINE=1")
    assert fetched.startswith("VSRBENCH_FETCHED=")
    assert not fetched.endswith("/kept/weights")


def test_users_of_a_machine_share_no_folder_of_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second may not write into the folder of who came first."""
    monkeypatch.delenv(variables.LOGS, raising=False)
    folders = set()
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        folders.add(variables.logs_folder())
    assert len(folders) == 2


def test_missing_error_exit_code() -> None:
    assert MissingError("m").exit_code == 3
    assert str(MissingError("what", "do this")) == "what (do this)"


@pytest.mark.parametrize("name", ["reference", "ablation"])
def test_lean_records_make_the_same_means_and_comparisons(root: Path, name: str) -> None:
    whole, lean = (Store(root / "results" / name).require(lean=lean) for lean in (False, True))
    assert [(r.key, r.value, r.error) for r in lean] == [(r.key, r.value, r.error) for r in whole]
    assert not any(r.per_frame for r in lean)
    assert summarise(lean) == summarise(whole)
    assert compare(lean, iter(lean)) == compare(whole, whole)
    assert compare(lean, whole) == compare(whole, lean)


def test_many_records_take_little_memory(root: Path, tmp_path: Path) -> None:
    """A million in 1 GiB; tests/benchmarks/million.py measures that."""
    count = 4000
    write(tmp_path / "many", count, seed=0)
    store = Store(tmp_path / "many")
    store.require(lean=True)
    for least, view in ((120, lambda: store.require(lean=True)), (20, lambda: store.seen())):
        tracemalloc.start()
        found = view()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert least * count < peak < 1000 * count
        del found


def test_lines_of_two_writers_do_not_mix(tmp_path: Path) -> None:
    """Each longer than a buffer, and written while others are."""
    code = (
        "import sys; from pathlib import Path; from tests.test_core import a_record; "
        "from vsrbench.results.store import Store; store = Store(Path(sys.argv[1])); "
        "[store.append(a_record(key=f'{sys.argv[2]}{i}', per_frame=(0.123456789,) * 5000))"
        " for i in range(60)]"
    )
    root = Path(__file__).parents[1]
    argv = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*argv, name], cwd=root) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    records = Store(tmp_path).read(strict=True)
    assert sorted(r.key for r in records) == sorted(f"{n}{i}" for n in "abc" for i in range(60))


def test_labels_on_a_terminal_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`a[/b].pth` is a file in a folder."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(2, 1) as progress:
        progress.start("a[/b].pth")
        progress.tick()
        progress.say_once("[bold]what")
        progress.finish("a[/b].pth", "FAILED: [/x]")
    said = capsys.readouterr().err
    assert all(text in said for text in ("a[/b].pth", "[bold]what", "FAILED: [/x]"))


@pytest.mark.parametrize(
    "extra",
    [
        {"shift": "x"},
        {"shift": [1, 1]},
        {"pyiqa": [1]},
        {"pyiqa": {"better": "up", "version": "1", "needs": []}},
        {"metric": {"title": "T"}},
        {"protocol": {"span": [1]}},
        {"flow": {}},
    ],
)
def test_what_lies_beside_a_score_is_checked(tmp_path: Path, extra: dict[str, object]) -> None:
    """A wrong one makes a damaged line, a lack of others is none; both ways of reading agree."""
    store = Store(tmp_path)
    store.append(a_record(clip="a", dataset="s", size=(8, 8)))
    store.append(a_record(key="k2", clip="b", dataset="s", size=(8, 8), extra=extra))
    whole, lean = store.require(), store.require(lean=True)
    assert [r.key for r in whole] == [r.key for r in lean]
    assert len(whole) == (2 if extra == {"shift": [1, 1]} else 1)
    assert summarise(whole) == summarise(lean)


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_memory_that_was_freed_is_used_again() -> None:
    """Of 20 rounds over 16 MiB none touches new pages; without it one does, 8 of 2 MiB at least."""
    code = (
        "import resource\n"
        "import numpy as np\n"
        "from vsrbench.core.processes import keep_memory\n"
        "keep_memory()\n"
        "def work(): np.ones((4, 1 << 20), np.float32)\n"
        "work()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): work()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_one_frame_is_no_frames() -> None:
    clip = Clip("set", "c", 1, (4, 4), 4, 0.0, "d", [np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(DataError, match="clip 'c' has 1 frame, and none from frame 3 on"):
        Selection(frames=(3, 5)).cut(clip)
    with pytest.raises(DataError, match=r"^1 frame and 2 of GT"):
        functions.score("psnr", clip.lq, [*clip.lq, *clip.lq])


@pytest.mark.parametrize(
    ("how", "likely"),
    [
        ("signal SIGKILL", "out of memory"),
        ("signal SIGSEGV", "native code crashed"),
        ("signal SIGABRT", "native code crashed"),
        ("exit code 3", "ended the process"),
    ],
)
def test_what_ends_a_process_is_told_apart(how: str, likely: str) -> None:
    said = Died(how).likely
    assert likely in said
    assert "--size" not in said  # which not all commands have

"""The report: what is in the file, and that it works in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import write_clip
from tests.test_compare import clips, cost, score, stored
from vsrbench.cli import main
from vsrbench.results.store import Store
from vsrbench.show.report.loops import make_worst_loop

REQUIRED = "VSRBENCH_BROWSER"
"""Set by .ci/run: without a browser tests fail then, and are not skipped."""
CHROME = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")


class Page(HTMLParser):
    """The parts of a page that tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.data: Any = None
        self.scripts = 0
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]
        self.ids |= {found["id"]} if found.get("id") else set()
        self._inside = found.get("type") or tag if tag in ("script", "style") else ""
        self.scripts += self._inside == "script"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "application/json":
            self.data = json.loads(data)
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips by two methods, frames kept."""
    folder = tmp_path_factory.mktemp("report")
    for name, count in (("one", 3), ("two", 4)):
        write_clip(folder / "lq" / name, count)
        write_clip(folder / "gt" / name, count, gt=True)
    arguments = ["--methods", "bicubic,lanczos", "--metrics", "psnr,ssim,flicker,lpips", "-q"]
    paths = ["--input", str(folder / "lq"), "--gt", str(folder / "gt")]
    out = folder / "results"
    # 3: LPIPS was asked for and its weights are not here.
    assert main([*arguments, *paths, "--keep-frames", "--no-cost", "--results", str(out)]) == 3
    return out


@pytest.fixture(scope="module")
def report(results: Path) -> Path:
    assert main(["report", "--results", str(results)]) == 0
    return results / "report.html"


def test_report_stands_alone(report: Path) -> None:
    page = Page(report.read_text())
    assert page.links
    assert all(link.startswith(("#", "data:")) for link in page.links)
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors == {"scores", "pictures", "failures", "provenance", "runs"} <= page.ids
    assert "default-src 'none'" in report.read_text()


def test_pictures_are_what_was_scored(report: Path, results: Path) -> None:
    comparisons = Page(report.read_text()).data
    assert [c["clip"] for c in comparisons] == ["one", "two"]
    for comparison in comparisons:
        assert [p["method"] for p in comparison["pictures"]] == ["lq", "bicubic", "lanczos", "gt"]
        assert comparison["frame"] == {"one": 1, "two": 2}[comparison["clip"]]
        assert comparison["reference"] == "gt"
        row = comparison["row"]
        loop = comparison["loop"]
        assert (loop["first"], loop["count"]) == (0, {"one": 3, "two": 4}[comparison["clip"]])
        x, y, w, h = loop["box"]
        for picture in comparison["pictures"]:
            name = picture["method"]
            assert picture["judged"] == (name in ("bicubic", "lanczos"))
            assert ("PSNR " in picture["scores"]) == picture["judged"]
            assert ("Flicker " in picture["scores"]) == (name != "lq")
            folder = results / "frames" / name / "lq" / comparison["clip"]
            if name == "lq":
                folder = results.parent / "lq" / comparison["clip"]
            kept = [np.asarray(Image.open(f)) for f in sorted(folder.glob("*.png"))]
            assert np.array_equal(decoded(picture["uri"]), kept[comparison["frame"]])
            if name == "lq":
                kept = [frame.repeat(4, 0).repeat(4, 1) for frame in kept]
            sheet = np.concatenate([frame[y : y + h, x : x + w] for frame in kept])
            assert np.array_equal(decoded(loop["sheets"][name]), sheet)
            assert np.array_equal(
                decoded(picture["slice"]), np.stack([frame[row] for frame in kept])
            )


def decoded(uri: str) -> np.ndarray[Any, Any]:
    """The pixels of a data URI."""
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_worst_second_is_where_motion_is_worst(tmp_path: Path) -> None:
    """24 frames at 4 a second; one method wobbles in frames 13 to 15, at the lower right."""
    still = np.random.default_rng(0).integers(90, 110, (160, 200, 3), dtype=np.uint8)
    sources = {name: [still.copy() for _ in range(24)] for name in ("bicubic", "ours", "gt")}
    for t in (13, 15):
        sources["ours"][t][120:140, 150:180] += np.uint8(90)
    per_pair = tuple(5.0 if 12 <= i <= 15 else 0.5 for i in range(23))
    flat = (1.0,) * 23
    records = [
        score("c", 1, "ewarp", method=method, metric_version=2, per_frame=values, fps=4.0)
        for method, values in (("ours", per_pair), ("bicubic", flat))
    ]
    loop = make_worst_loop(sources, records, lambda frame: f"{frame.shape}")
    assert loop is not None
    assert (loop.first, loop.count, loop.fps) == (12, 4, 4.0)
    x, y, w, h = loop.box
    assert x <= 150 < 180 <= x + w
    assert y <= 120 < 140 <= y + h
    assert "E_warp" in loop.rule
    assert loop.sheets["gt"] == f"{(4 * h, w, 3)}"
    assert make_worst_loop({"bicubic": [still]}, [], str) is None
    alone = make_worst_loop({"bicubic": [still[:6, :5]] * 9}, [], str)
    assert alone is not None
    assert (alone.count, alone.box[2:]) == (9, (4, 4))


def test_it_opens_on_the_clip_that_shows_most(report: Path) -> None:
    text = report.read_text()
    spread = [c["spread"] for c in Page(text).data]
    opened = re.search(r'<option value="(\d+)" selected>', text)
    assert opened is not None
    assert spread[int(opened[1])] == max(spread)


def test_report_says_what_a_reader_asks(report: Path, results: Path) -> None:
    text = Page(report.read_text()).text
    run = json.loads((results / "runs.jsonl").read_text().splitlines()[-1])
    assert shlex.join(["vsrbench", *run["argv"]]) in text
    for asked in (run["run_id"], run["env"]["cpu"], f"torch {run['env']['packages']['torch']}"):
        assert asked in text
    records = {r.metric: r for r in Store(results).read() if r.method == "lanczos"}
    lpips = records["lpips"]
    assert lpips.error is not None
    assert lpips.error["message"] in text
    assert "lq, 2 clips (one, two): " in text
    assert "kernel = lanczos" in text


def test_budget_names_the_clips_it_leaves_out(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.html"
    assert main(["report", "--results", str(results), "--images", "0.05", "-o", str(out)]) == 0
    page = Page(out.read_text())
    assert [c["clip"] for c in page.data] == ["one"]
    assert "lq/two: the pictures before it took all of --images" in page.text
    assert main(["report", "--results", str(results), "--images", "0", "-o", str(out)]) == 0
    page = Page(out.read_text())
    assert page.data is None
    assert "2 clips without pictures" in page.text


def test_a_report_is_made_again_only_where_something_changed(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "results"
    shutil.copytree(results, own, ignore=shutil.ignore_patterns("figures"))
    out = own / "report.html"

    def kept(*how: str) -> bool:
        before = out.stat().st_ino if out.exists() else 0
        assert main(["report", "--results", str(own), "--images", "0.001", *how]) == 0
        told = "it is kept" in capsys.readouterr().err
        assert told == (out.stat().st_ino == before)
        return told

    assert not kept()
    assert kept()
    assert not kept("--vote")
    assert not kept()
    picture = next(path for path in (own / "frames").rglob("*.png") if "lanczos" in str(path))
    frame = np.array(Image.open(picture))
    frame[0, 0, 0] ^= 1
    Image.fromarray(frame).save(picture)
    assert not kept()
    assert kept()
    lines = (own / "records.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    (own / "records.jsonl").write_text("\n".join([*lines, json.dumps(first | {"value": 1.5})]))
    assert not kept()
    out.write_text(out.read_text().replace("1.5", "9.5", 1))
    assert not kept()
    out.write_text("")
    assert not kept()


def test_a_clip_is_drawn_again_only_where_something_of_it_changed(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "results"
    shutil.copytree(results, own, ignore=shutil.ignore_patterns("figures"))
    out = own / "report.html"

    def count_drawn() -> int:
        out.unlink(missing_ok=True)
        assert main(["report", "--results", str(own)]) == 0
        return capsys.readouterr().err.count("pictures of ")

    assert count_drawn() == 2
    page = out.read_bytes()
    assert count_drawn() == 0
    assert out.read_bytes() == page
    kept = next((own / "figures" / "report").glob("clip-*.json"))
    kept.write_bytes(kept.read_bytes().replace(b"lanczos", b"bicubic", 1))
    assert count_drawn() == 1
    assert count_drawn() == 0
    assert out.read_bytes() == page
    picture = next(path for path in (own / "frames").rglob("*.png") if "lanczos" in str(path))
    frame = np.array(Image.open(picture))
    frame[0, 0, 0] ^= 1
    Image.fromarray(frame).save(picture)
    assert count_drawn() == 1
    assert "altered" in out.read_text() or "changed" in out.read_text()


def test_clips_with_long_names(tmp_path: Path) -> None:
    """As videos have that were downloaded: two differ only at their end."""
    names = ["視" * 75 + "one", "視" * 75 + "two", "n" * 250]
    for name in names:
        write_clip(tmp_path / "lq" / name, 2)
    own = str(tmp_path / "results")
    arguments = ["--methods", "bicubic", "--input", str(tmp_path / "lq"), "--metrics", "lr_psnr"]
    assert main([*arguments, "-q", "--keep-frames", "--no-cost", "--results", own]) == 0
    assert main(["report", "--results", own]) == 0
    text = (tmp_path / "results" / "report.html").read_text()
    assert "left out" not in text
    clip = next(record.clip for record in Store(Path(own)).latest().values())
    assert main(["figure", "crops", "--clip", clip, "--results", own]) == 0


def test_clips_of_one_label_have_pictures_of_their_own(tmp_path: Path) -> None:
    own = str(tmp_path / "results")
    for count, (dataset, clip) in enumerate((("a", "b-c"), ("a-b", "c")), 2):
        write_clip(tmp_path / dataset / clip, count)
        arguments = ["--methods", "bicubic", "--input", str(tmp_path / dataset), "--no-cost", "-q"]
        assert main([*arguments, "--metrics", "lr_psnr", "--keep-frames", "--results", own]) == 0
    assert main(["report", "--results", own]) == 0
    assert len(list((tmp_path / "results/figures/report").glob("clip-*.json"))) == 2


def test_a_report_whose_pictures_cannot_wait_for_the_next(results: Path, tmp_path: Path) -> None:
    own, page = tmp_path / "results", tmp_path / "page.html"
    shutil.copytree(results, own, ignore=shutil.ignore_patterns("figures"))
    (own / "figures").write_text("a file where a folder should be")
    assert main(["report", "--results", str(own), "-o", str(page)]) == 0
    assert len(Page(page.read_text()).data) == 2


def test_records_alone_make_a_report(tmp_path: Path) -> None:
    """No frames, no runs, a hostile name, a failure, cost of another size than the set's."""
    evil = "</script><script>alert(1)</script>"
    hurt = score("c2", None, error={"message": f"bad {evil}", "hint": "mend it"})
    folder = stored(tmp_path / "r", [*clips(30.0, 31.0), hurt, cost(9.0)])
    assert main(["report", "--results", str(folder)]) == 0
    page = Page((folder / "report.html").read_text())
    assert page.scripts == 1
    assert evil in page.text
    assert "mend it" in page.text
    assert "no frames were kept; run with --keep-frames" in page.text
    assert "left no line in" in page.text


def test_bad_requests(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(tmp_path / "none")]) == 3
    assert "no records" in capsys.readouterr().err
    assert main(["report", "--results", str(results), "--methods", "lanczoz"]) == 2
    assert "Did you mean 'lanczos'?" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["report", "--results", str(results), "-o", str(blocked / "x.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROME is None or CHROMEDRIVER is None:
        why = "no Chromium with its driver here (Debian: chromium, chromium-driver)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{why}, and {REQUIRED} is set: the report would go untested")
        pytest.skip(why)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        "disable-dev-shm-usage",
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "window-size=1200,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Chromium has a socket in its temporary folder, whose name may have a hundred letters.
    short = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    service = webdriver.ChromeService(CHROMEDRIVER, env=os.environ | {"TMPDIR": short})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def test_report_in_a_browser(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.get(report.as_uri())

    def one(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    def column(index: int) -> list[str]:
        rows = browser.find_elements("css selector", "table.sortable tbody tr")
        return [row.find_elements("tag name", "td")[index].text for row in rows]

    head = one("table.sortable thead").text
    assert "PSNR" in head
    assert "LPIPS" not in head  # nobody has it, so there is no column
    assert "No LPIPS" in one("#scores").text
    heads = browser.find_elements("css selector", "table.sortable th button")
    psnr = next(i for i, head in enumerate(heads) if head.text.startswith("PSNR"))
    heads[psnr].click()
    first = [float(text.split()[0]) for text in column(psnr)]
    assert first == sorted(first, reverse=True)
    assert heads[psnr].find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    heads[psnr].click()
    assert [float(text.split()[0]) for text in column(psnr)] == sorted(first)
    heads[0].click()
    assert column(0) == sorted(column(0))

    def loaded(selector: str) -> bool:
        script = (
            "const i = document.querySelector(arguments[0]); return i.decode().then(() => i.width)"
        )
        return bool(browser.execute_script(script, selector))

    def drawn(selector: str) -> dict[str, Any]:
        """Title -> pixels of what is drawn."""
        waits = f"{selector} canvas:not([data-drawn])"
        find = partial(browser.find_elements, "css selector", waits)
        WebDriverWait(browser, 10).until(lambda _: not find())
        found = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0] + ' .views figure')].map((f) =>"
            " [f.querySelector('b').textContent, f.querySelector('canvas').toDataURL()])",
            selector,
        )
        return {title: decoded(uri) for title, uri in found}

    assert all(map(loaded, ("#over", "#under", "#crops .where img", "#profiles .where img")))
    comparison = Page(report.read_text()).data[int(one("#clip").get_attribute("value"))]
    pictures = {p["title"]: p for p in comparison["pictures"]}
    (x, y, w, h), (width, height) = comparison["box"], comparison["size"]
    for title, crop in drawn("#crops").items():
        frame = decoded(pictures[title]["uri"])
        rows = np.arange(height) * frame.shape[0] // height
        columns = np.arange(width) * frame.shape[1] // width
        assert np.array_equal(crop, frame[rows][:, columns][y : y + h, x : x + w])
    for title, profile in drawn("#profiles").items():
        pixels = decoded(pictures[title]["slice"])
        assert np.array_equal(profile, pixels.repeat(len(profile) // len(pixels), 0))
    assert drawn("#crops").keys() == drawn("#profiles").keys() == pictures.keys()
    left, right, clip = (Select(one(f"#{name}")) for name in ("left", "right", "clip"))
    assert left.first_selected_option.text == "LQ"
    assert right.first_selected_option.text == "Lanczos"
    assert one("#over").get_attribute("alt") == "LQ"
    clip.select_by_visible_text("lq / two")
    assert "lq / two, frame 2." in one("#about").text
    assert right.first_selected_option.text == "Lanczos"
    right.select_by_visible_text("GT")
    assert one("#under").get_attribute("alt") == "GT"

    one("#split").send_keys(Keys.HOME)
    assert one("#stage").get_attribute("style").find("--x: 0%") >= 0
    stage = one("#stage")
    ActionChains(browser).move_to_element_with_offset(
        stage, round(stage.size["width"] * 0.25), 0
    ).click().perform()
    assert float(one("#split").get_attribute("value")) == pytest.approx(75, abs=1)

    dot = one(".strips .dot")
    ActionChains(browser).move_to_element(dot).perform()
    marked = browser.find_elements("css selector", ".dot.on")
    assert len(marked) > 1
    assert {d.get_attribute("data-clip") for d in marked} == {dot.get_attribute("data-clip")}

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_no_page_is_wider_than_its_window(browser: Any, wide: Path) -> None:
    """Twelve methods with long names, many columns, a footnote of one word: on any screen."""
    from selenium.webdriver.support.ui import WebDriverWait

    for width in (1440, 768, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(wide.as_uri())
        assert browser.execute_script("return innerWidth") == width
        room, needed = browser.execute_script(
            "const page = document.documentElement; return [page.clientWidth, page.scrollWidth]"
        )
        assert needed <= room
        narrow = browser.execute_script(
            "return [...document.querySelectorAll('p, td, select, button, figcaption')]"
            ".filter((e) => e.offsetWidth && parseFloat(getComputedStyle(e).fontSize) < 12).length"
        )
        assert narrow == 0
    # The table scrolls, its first column stays, and a shadow says that there is more on the left.
    box = browser.find_element("css selector", "#scores .scroll")
    left = "return arguments[0].querySelector('tbody td').getBoundingClientRect().left"
    before = browser.execute_script(left, box)
    browser.execute_script("arguments[0].scrollLeft = 200", box)
    WebDriverWait(browser, 10).until(lambda _: "moved" in box.get_attribute("class"))
    assert browser.execute_script("return arguments[0].scrollLeft", box) == 200
    assert browser.execute_script(left, box) == before
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of many records without frames."""
    metrics = {"psnr": 20.0, "ssim": 0.0, "flicker": 1.0, "niqe": 3.0, "ewarp": 0.5, "tof": 1.0}
    records = [
        score(
            clip,
            value + i,
            metric,
            method=f"method_number_{i:02}",
            title=f"A method with a long name {i}",
        )
        for i in range(12)
        for clip in ("c1", "c2", "c3")
        for metric, value in metrics.items()
    ]
    records.append(
        score("c4", None, error={"message": "x" * 300, "hint": "/a/very/long/path" * 20})
    )
    folder = stored(tmp_path_factory.mktemp("wide") / "r", records)
    assert main(["report", "--results", str(folder)]) == 0
    return folder / "report.html"


def test_loop_slider_and_sorting_by_keyboard(browser: Any, report: Path) -> None:
    """Everything on the page goes without a mouse, moves, and asks no network for anything."""
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("performance")
    browser.get(report.as_uri())

    def one(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    def pixels(side: str) -> str:
        return str(
            browser.execute_script(f"return document.getElementById('loop-{side}').toDataURL()")
        )

    seen = set[str]()  # the empty canvas may be among them

    def moves(_: Any) -> bool:
        seen.add(pixels("right"))
        return len(seen) > 2

    WebDriverWait(browser, 20, 0.03).until(moves)
    one("#play").send_keys(Keys.ENTER)
    assert one("#play").text == "play"
    assert pixels("left") == pixels("left")
    step = one("#step")
    step.send_keys(Keys.HOME)
    first = pixels("left"), pixels("right")
    assert first[0] != first[1]
    step.send_keys(Keys.ARROW_RIGHT)
    assert step.get_attribute("value") == "1"
    assert pixels("left") != first[0]
    assert pixels("right") != first[1]
    one("#right").send_keys("GT")
    assert one("#loop-right-name").text == "GT"

    split = one("#split")
    split.send_keys(Keys.END)
    assert "--x: 100%" in one("#stage").get_attribute("style")
    split.send_keys(Keys.ARROW_LEFT)
    assert "--x: 99.5%" in one("#stage").get_attribute("style")

    head = one("table.sortable th button")
    head.send_keys(Keys.ENTER)
    order = head.find_element("xpath", "..").get_attribute("aria-sort")
    head.send_keys(Keys.SPACE)
    assert {order, head.find_element("xpath", "..").get_attribute("aria-sort")} == {
        "ascending",
        "descending",
    }
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}


def test_the_vote_is_blind_and_its_file_is_read(
    browser: Any, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from selenium.webdriver import ActionChains, Keys

    page = tmp_path / "vote.html"
    assert main(["report", "--vote", "--results", str(results), "-o", str(page)]) == 0
    folder = tmp_path / "saved"
    folder.mkdir()
    where = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    browser.get(page.as_uri())
    ballot = browser.find_element("id", "ballot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", ballot)
    assert not re.search("Bicubic|Lanczos", ballot.text)
    decoys = 0
    for i in range(12):
        left, right = (
            browser.find_element("id", f"vote-{side}").get_attribute("src")
            for side in ("left", "right")
        )
        decoys += left == right
        assert (left == right) == (i % 4 == 3)
        if i == 0:
            browser.find_element("css selector", "[data-choice=left]").click()
        else:
            key = Keys.ARROW_DOWN if left == right else Keys.ARROW_RIGHT
            ActionChains(browser).send_keys(key).perform()
    assert browser.find_element("id", "tally").text == "12 votes"
    browser.find_element("id", "export").click()
    for _ in range(100):
        if files := list(folder.glob("votes-*.json")):
            break
        time.sleep(0.05)
    capsys.readouterr()
    assert main(["votes", str(files[0]), "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "9 comparisons by 1 voter, decoys apart" in out
    assert {"Bicubic", "Lanczos"} <= set(re.findall("Bicubic|Lanczos", out))
    assert "agrees with people" in out
    assert main(["votes", str(page)]) == 1
    assert "is not valid JSON" in capsys.readouterr().err

"""The report: what is in the file, and that it works in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
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
        assert [p["method"] for p in comparison["pictures"]] == ["bicubic", "lanczos", "gt"]
        assert comparison["frame"] == {"one": 1, "two": 2}[comparison["clip"]]
        assert comparison["profile"].startswith("data:image/png;base64,iVBOR")
        for picture in comparison["pictures"]:
            assert ("PSNR " in picture["scores"]) == (picture["method"] != "gt")
            assert "Flicker " in picture["scores"]
            data = base64.b64decode(picture["uri"].removeprefix("data:image/webp;base64,"))
            folder = results / "frames" / picture["method"] / "lq" / comparison["clip"]
            kept = sorted(folder.glob("*.png"))[comparison["frame"]]
            assert np.array_equal(Image.open(io.BytesIO(data)), Image.open(kept))


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
        pytest.skip("no Chromium with its driver here (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "window-size=1200,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


def test_report_in_a_browser(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.support.ui import Select

    browser.get(report.as_uri())

    def one(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    def column(index: int) -> list[str]:
        rows = browser.find_elements("css selector", "table.sortable tbody tr")
        return [row.find_elements("tag name", "td")[index].text for row in rows]

    assert "LPIPS" in one("table.sortable thead").text
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

    assert all(map(loaded, ("#over", "#under", "#profile")))
    left, right, clip = (Select(one(f"#{name}")) for name in ("left", "right", "clip"))
    assert left.first_selected_option.text == "Bicubic"
    assert right.first_selected_option.text == "Lanczos"
    assert one("#over").get_attribute("alt") == "Bicubic"
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
    assert "9 comparisons of 1 people, decoys apart" in out
    assert {"Bicubic", "Lanczos"} <= set(re.findall("Bicubic|Lanczos", out))
    assert "agrees with people" in out
    assert main(["votes", str(page)]) == 1
    assert "is not JSON" in capsys.readouterr().err

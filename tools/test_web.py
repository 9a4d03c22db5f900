"""The demo in a headless Chromium, on this machine alone; the last line is `N passed, N failed`.

    python tools/test_web.py             all
    python tools/test_web.py upload      only what has this in its name

A demo is started on an untrained model, with phantoms made for it; every test opens the page as another person would.
Debian's Chromium is installed where there is none, which takes root.
"""
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from run import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--no-first-run",
]
PATIENCE = 90_000  # ms, for what a model does on a busy machine
SLICES_PER_SECOND = 20


# --- the demo, in a process of its own -------------------------------------------------------------------------------

def watch_sockets(log: Path) -> None:
    "Write down every address outside of this machine that this process wants to talk to."
    here = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "", None}

    def hook(event: str, args: tuple) -> None:
        if event == "socket.getaddrinfo": host = args[0]
        elif event in ("socket.connect", "socket.sendto"): host = args[1][0] if isinstance(args[1], tuple) else None
        else: return
        host = host.decode() if isinstance(host, bytes) else host
        if host not in here:
            with open(log, "a") as file: file.write(f"{event} {host}\n")

    sys.addaudithook(hook)


def write_files(folder: Path, phantom: Path) -> None:
    "The same CT as NIfTI and as a zipped DICOM series, a large one, and what is no CT."
    import nibabel as nib
    import numpy as np

    from hsenet.ct.dicom_files import write_series
    from hsenet.ct.read import read_ct

    folder.mkdir()
    ct = read_ct(phantom)
    hu = np.rint(ct.hu).astype(np.int16)
    z, x, y = ct.spacing
    series = folder / "series"
    write_series(series, hu, ct.spacing)
    shutil.make_archive(str(folder / "scan"), "zip", series)
    shutil.rmtree(series)
    for name, thickness in {"scan": z, "thick": 2 * z}.items():
        image = nib.Nifti1Image(hu.transpose(1, 2, 0), np.diag([-x, -y, thickness, 1]))
        nib.save(image, folder / f"{name}.nii.gz")

    wide = np.kron(hu[4:12], np.ones((1, 16, 16), np.int16)).repeat(8, axis=0)[:60, :512, :512]
    noise = np.random.default_rng(0).integers(-20, 20, wide.shape, dtype=np.int16)
    large = nib.Nifti1Image((wide + noise).transpose(1, 2, 0), np.diag([-0.7, -0.7, 5, 1]))
    nib.save(large, folder / "large.nii")
    (folder / "notes.nii.gz").write_text("A letter, not a CT. <script>alert(1)</script>")
    (folder / "heavy.nii").write_bytes(bytes(41_000_000))
    bomb = folder / "slice.dcm"
    bomb.write_bytes(bytes(90_000_000))
    subprocess.run([sys.executable, "-m", "zipfile", "-c", folder / "bomb.zip", bomb], check=True)
    bomb.unlink()


def disturb_lines(cut: Path) -> None:
    """Let a request's headers say how bad its line is: by how many seconds the end of a stream of answers comes late
    (`x-late`), and whether a heartbeat breaks off as soon as the file `cut` is there (`x-heart`)."""
    from hsenet.demo import server

    class BadDoor(server.Door):
        async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
            if scope["type"] != "http": return await super().__call__(scope, receive, send)
            late = float(server.header_of(scope, "x-late") or 0)

            async def held(message: dict) -> None:
                if late and b"close_stream" in message.get("body", b""): await asyncio.sleep(late)
                await send(message)

            breaks = server.header_of(scope, "x-heart") and "/heartbeat/" in scope["path"]
            if not breaks: return await super().__call__(scope, receive, held)
            answered = asyncio.ensure_future(super().__call__(scope, receive, held))
            while not answered.done():
                await asyncio.wait([answered], timeout=0.1)
                if cut.exists(): answered.cancel()

    server.Door = BadDoor


def serve_example(work: Path) -> None:
    "Make a model and files, and serve the demo."
    watch_sockets(work / "sockets.log")
    disturb_lines(work / "cut")
    from hsenet.demo.phantoms import write_phantom
    from hsenet.demo.server import serve
    from hsenet.demo.service import Service
    from hsenet.demo.uploads import Limits
    from hsenet.inference import HSENet
    from hsenet.use.example import write_example

    example = write_example(work / "example")
    model = HSENet.load(example.bundle, device="cpu")
    write_phantom(model.config, "valid_1_a", work / "phantom.nii.gz")
    write_files(work / "files", work / "phantom.nii.gz")
    service = Service(model, example.cache, Limits(upload=0.04, unpacked=0.08), max_new_tokens=40)
    serve(service, port=0, ready=lambda address: print(address, flush=True))


# --- what the tests have in hand -------------------------------------------------------------------------------------

@dataclass
class Demo:
    "A running demo and a browser."
    work: Path
    server: subprocess.Popen
    address: str
    browser: object = None
    outside: list[str] = field(default_factory=list)  # requests of the browser that left this machine
    complaints: list[str] = field(default_factory=list)  # of the page, in the browser's console

    def file(self, name: str) -> Path: return self.work / "files" / name

    def folders(self) -> list[Path]:
        "Folders of the pages that are open."
        return [path for path in self.work.glob("tmp/hsenet-demo-*/tmp*") if path.is_dir()]

    @contextmanager
    def person(self, **how) -> Iterator[object]:
        "Somebody with a browser of their own, with the page open."
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
        context.route("**/*", self._pass)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        try:
            self.open(page)
            yield page
        finally:
            context.close()

    def open(self, page) -> None:
        "Open the page, and wait until it knows its session."
        page.goto(self.address)
        wait_for_phantoms(page)

    def _pass(self, route) -> None:
        if route.request.url.startswith((self.address, "data:", "blob:")): return route.continue_()
        self.outside.append(route.request.url)
        route.abort()

    def _listen(self, message) -> None:
        expected = "status of 4" in message.text  # asked for by a test
        if message.type == "error" and not expected: self.complaints.append(message.text)


def upload(page, path: Path) -> None: page.set_input_files("#ct-file", path)


def choose_phantom(page, number: int = 1) -> None: page.select_option("#ct-phantom", index=number)


def written(page) -> str:
    "The report, when it is whole."
    page.wait_for_selector("#report button")
    return page.inner_text("#report .report")


def open_tab(page, name: str) -> None: page.get_by_role("tab", name=name).click()


def wait_for_rest(page) -> None:
    "Open the similar cases, and wait until they are there: the last that the model does of itself."
    open_tab(page, "Cases")
    page.wait_for_selector("#similar article")


def wait_for_phantoms(page) -> None:
    "Until the page knows its session."
    page.wait_for_selector("#ct-phantom option:nth-child(2)", state="attached")


def wait_for_map(page, before: str | None = None) -> None:
    "Until another map is shown than before; None: there was none."
    shown = "old => (document.querySelector('section.viewer').dataset.map || null) !== old"
    page.wait_for_function(shown, arg=before)


def picture(page, plane: str = "axial") -> int:
    "A checksum of what a plane shows."
    return page.evaluate("""(plane) => {
        const canvas = document.querySelector(`[data-plane=${plane}] canvas`);
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let sum = 0;
        for (let i = 0; i < pixels.length; i++) sum = (sum * 31 + pixels[i]) % 1000003;
        return sum;
    }""", plane)


def after(page, change: Callable[[], None], plane: str = "axial") -> bool:
    "Does a plane show something else after a change?"
    before = picture(page, plane)
    change()
    for _ in range(50):
        page.wait_for_timeout(50)
        if picture(page, plane) != before: return True
    return False


def in_time(happened: Callable[[], bool], seconds: float = 30) -> bool:
    "Does something happen within some time?"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened(): return True
        time.sleep(0.2)
    return False


def position(page, plane: str = "axial") -> str: return page.inner_text(f"[data-plane={plane}] output")


def computing_times() -> dict[int, float]:
    "Seconds of CPU that each of the browser's processes has used."
    used = {}
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            if "chrom" in process.name(): used[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return used


def widest(page) -> int:
    "How far to the right anything reaches, or could be scrolled."
    return page.evaluate("""() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth,
        ...[...document.querySelectorAll("section, header, figure, button, #reading, #seeing, .message")]
            .filter((element) => !element.closest(".visually-hidden"))  // gradio measures with these
            .map((element) => Math.ceil(element.getBoundingClientRect().right)))""")


# --- tests -----------------------------------------------------------------------------------------------------------

def test_opens(demo: Demo) -> None:
    "The page, what it is not for, and its phantoms; and nothing at another address of this machine."
    port = int(demo.address.rsplit(":", 1)[1])
    try:
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
        raise AssertionError("it listens elsewhere, too")
    except OSError:
        pass
    with demo.person() as page:
        assert page.title() == "HSENet"
        assert page.get_by_text("Research use only, not for diagnosis.").is_visible()
        assert page.locator("#ct-phantom option").count() == 13
        assert "share" not in page.inner_text("body").lower()
        assert page.locator("footer:visible").count() == 0


def test_upload_of_nifti(demo: Demo) -> None:
    "A NIfTI file is shown and reported, while it is being written; the windows differ."
    with demo.person() as page:
        page.evaluate("""() => {
            window.lengths = [];
            new MutationObserver(() => window.lengths.push(document.querySelector("#report").innerText.length))
                .observe(document.querySelector("#report"), {subtree: true, childList: true, characterData: true});
        }""")
        upload(page, demo.file("scan.nii.gz"))
        page.wait_for_selector(".viewer.open")
        assert page.inner_text(".viewer .name") == "scan.nii.gz"
        assert len(written(page)) > 10
        lengths = page.evaluate("window.lengths")
        assert len(set(lengths)) > 5, f"the report came at once: {lengths}"
        assert after(page, lambda: page.click("[data-window=bone]"))
        assert after(page, lambda: page.click("[data-window=mediastinum]"))
        for plane in ("axial", "coronal", "sagittal"):
            scroll = f"[data-plane={plane}] .stage"
            assert after(page, lambda: (page.hover(scroll), page.mouse.wheel(0, 200)), plane), plane
        assert "slices" not in page.inner_text("#message").lower()  # as thick as those that the model was made for
        upload(page, demo.file("thick.nii.gz"))
        page.wait_for_function("() => document.querySelector('#message')?.innerText.includes('made for thinner ones')")


def test_zip_and_nifti_say_the_same(demo: Demo) -> None:
    "A zipped DICOM series has the report of its NIfTI file."
    reports = []
    with demo.person() as page:
        for name in ("scan.nii.gz", "scan.zip"):
            upload(page, demo.file(name))
            page.wait_for_function("name => document.querySelector('.viewer .name').textContent === name", arg=name)
            reports.append(written(page))
    assert reports[0] == reports[1], reports


def test_questions(demo: Demo) -> None:
    "A question is answered, and a second; markup in it stays text."
    with demo.person() as page:
        choose_phantom(page)
        written(page)
        open_tab(page, "Questions")
        for number, question in enumerate(["Where is the nodule?", "<b>How large?</b>"], start=1):
            page.fill("#question textarea, #question input", question)
            page.keyboard.press("Enter")
            page.wait_for_function("n => document.querySelectorAll('#chat .answer').length === n", arg=number)
            page.wait_for_selector("#chat .caret", state="detached")
            assert page.locator("#chat .question").nth(number - 1).inner_text() == question
            assert page.locator("#chat .answer").nth(number - 1).inner_text()
        assert page.locator("#chat b").count() == 0


def test_findings_and_cases(demo: Demo) -> None:
    "A bar for each finding that the index's cases vary in, the longest first; similar cases with their reports."
    from hsenet.cache.manifest import read_records
    from hsenet.training.facts import varied_labels

    names = varied_labels(read_records(demo.work / "example" / "cache"))
    with demo.person() as page:
        choose_phantom(page, 2)
        open_tab(page, "Findings")
        page.wait_for_selector("#findings button")
        widths = page.eval_on_selector_all("#findings i", "bars => bars.map(bar => parseFloat(bar.style.width))")
        assert len(widths) == len(names) > 3 and widths == sorted(widths, reverse=True), (widths, names)
        assert set(page.locator("#findings button span").all_inner_texts()) == set(names)
        wait_for_rest(page)
        cases = page.locator("#similar article")
        assert cases.count() == 5
        assert "similarity" in cases.first.inner_text() and len(cases.first.locator("p").inner_text()) > 20


def test_overlay(demo: Demo) -> None:
    "A sentence and a finding each show where the model looked, and not the same place."
    with demo.person() as page:
        choose_phantom(page)
        written(page)
        plain = picture(page)
        page.click("#report button >> nth=0")
        page.wait_for_selector(".viewer section[data-map], section.viewer[data-map]")
        first = page.get_attribute("section.viewer", "data-map")
        assert page.inner_text(".viewer .where").startswith("Where it looked for:")
        assert page.get_attribute("#report button >> nth=0", "aria-pressed") == "true"
        page.wait_for_timeout(200)
        assert picture(page) != plain
        assert after(page, lambda: page.locator(".strength input").evaluate(
            "slider => { slider.value = 0; slider.dispatchEvent(new Event('input', {bubbles: true})); }"))
        open_tab(page, "Findings")
        page.wait_for_selector("#findings button")
        page.click("#findings button >> nth=3")
        wait_for_map(page, first)
        assert page.inner_text(".viewer .where") != "Where it looked for:"


def test_overlay_waits_for_its_ct(demo: Demo) -> None:
    "A sentence that is clicked before the CT has come is shown once both are there."
    held = []
    with demo.person() as page:
        page.route("**/ct/*/volume-*", lambda route: held.append(route))
        choose_phantom(page)
        written(page)
        page.click("#report button >> nth=0")
        page.wait_for_selector("#report button[aria-pressed=true]")
        page.wait_for_timeout(500)
        assert held and page.get_attribute("section.viewer", "data-map") is None
        for route in held: route.continue_()
        page.wait_for_selector("section.viewer[data-map]")
        assert page.inner_text(".viewer .where").startswith("Where it looked for:")


def test_late_end_of_a_stream(demo: Demo) -> None:
    "Where the line is slow, an event that is asked for while a stream of answers ends has its answer, too."
    with demo.person(extra_http_headers={"x-late": "2"}) as page:
        choose_phantom(page)
        written(page)
        page.click("#report button >> nth=0")
        page.wait_for_selector("section.viewer[data-map]")
        first = page.get_attribute("section.viewer", "data-map")
        open_tab(page, "Findings")
        page.click("#findings button >> nth=0")
        wait_for_map(page, first)


def test_last_of_quick_clicks(demo: Demo) -> None:
    "Of findings that are clicked while another is being looked for, the last is shown."
    with demo.person() as page:
        choose_phantom(page)
        written(page)
        wait_for_rest(page)
        open_tab(page, "Findings")
        held, clicks = [], [2, 0, 1]
        page.route("**/queue/join*", lambda route: held.append(route) if clicks else route.continue_())
        for number in clicks: page.click(f"#findings button >> nth={number}")
        for _ in range(100):
            if len(held) < len(clicks): page.wait_for_timeout(50)
        clicks.clear()
        for route in held:
            route.continue_()
            page.wait_for_timeout(300)
        page.wait_for_selector("#findings button:nth-child(2)[aria-pressed=true]")
        page.wait_for_timeout(500)
        assert page.get_attribute("#findings button:nth-child(2)", "aria-pressed") == "true", "not for long"
        assert page.locator("#findings button span").nth(1).inner_text() in page.inner_text(".viewer .where")


def test_cut_line(demo: Demo) -> None:
    "A page whose line was cut begins anew by itself."
    before = list(demo.complaints)
    with demo.person() as page:
        page.route("**/queue/data*", lambda route: route.abort(), times=1)
        choose_phantom(page)
        page.wait_for_function("performance.getEntriesByType('navigation')[0].type === 'reload'")
        wait_for_phantoms(page)
        choose_phantom(page)
        assert written(page)
    demo.complaints[:] = before  # of the cut itself


def test_lost_heartbeat(demo: Demo) -> None:
    "A page that wasn't heard any more has lost its CT, and says what to do."
    cut = demo.work / "cut"
    with demo.person(extra_http_headers={"x-heart": "breaks"}) as page:
        choose_phantom(page)
        written(page)
        wait_for_rest(page)
        open_tab(page, "Report")
        before = len(demo.folders())
        cut.touch()
        assert in_time(lambda: len(demo.folders()) < before)
        page.click("#report button >> nth=0")
        page.get_by_text("Reload the page.").wait_for()
    cut.unlink()


def test_overlay_goes_into_the_body(demo: Demo) -> None:
    "The cross goes where the map is highest in the body, never to a slice of air; it says so if it is higher elsewhere."
    from hsenet.ct.read import read_ct

    with demo.person() as page:
        upload(page, demo.file("scan.nii.gz"))
        written(page)
        hu = read_ct(demo.file("scan.nii.gz")).hu  # (z, x, y)
        sentences = page.locator("#report button")
        for number in range(min(3, sentences.count())):
            before = page.get_attribute("section.viewer", "data-map")
            sentences.nth(number).click()
            wait_for_map(page, before)
            page.wait_for_timeout(200)
            z, y, x = [int(position(page, plane).split("/")[0]) - 1 for plane in ("axial", "coronal", "sagittal")]
            around = hu[z, max(0, x - 1):x + 2, max(0, y - 1):y + 2]
            assert around.mean() > -900, (number, z, y, x, around)
            said = page.inner_text(".viewer .where")
            assert said.startswith("Where it looked for:"), said


def test_bad_files(demo: Demo) -> None:
    "What is no CT, too large, or a bomb is a message; then a good one is opened."
    with demo.person() as page:
        for name, words in [
            ("notes.nii.gz", "notes.nii.gz"),
            ("heavy.nii", "larger than 0.04 GB"),
            ("bomb.zip", "0.08 GB at most"),
        ]:
            upload(page, demo.file(name))
            page.wait_for_function("words => document.querySelector('#message')?.innerText.includes(words)", arg=words)
            said = page.inner_text("#message")
            assert page.locator("#message [role=alert]").count() == 1
            assert str(demo.work) not in said and "Traceback" not in page.inner_text("body"), said
            assert page.locator(".viewer.open").count() == 0
        upload(page, demo.file("scan.nii.gz"))
        assert written(page)


def test_second_user_sees_nothing(demo: Demo) -> None:
    "Another browser, and another tab, have none of what the first has open, whatever address they know."
    with demo.person() as ada, demo.person() as bob:
        upload(ada, demo.file("scan.nii.gz"))
        report = written(ada)
        volume = ada.evaluate("performance.getEntriesByType('resource').map(r => r.name).find(n => /volume-/.test(n))")
        queue = ada.evaluate("performance.getEntriesByType('resource').map(r => r.name).find(n => /queue\\/data/.test(n))")
        assert bob.locator(".viewer.open").count() == 0 and report not in bob.inner_text("body")
        on_disk = [path for folder in demo.folders() for path in folder.rglob("*") if path.is_file()]
        assert len(on_disk) >= 2, "the first person's files"
        wanted = [volume, volume.replace("volume-", "map-"), queue]
        wanted += [f"{demo.address}/gradio_api/file={path}" for path in on_disk]
        wanted += [f"{demo.address}/file={path}" for path in on_disk]
        statuses = bob.evaluate("""addresses => Promise.all(addresses.map(async (a) => (await fetch(a)).status))""", wanted)
        assert set(statuses) == {404}, dict(zip(wanted, statuses))
        own = ada.evaluate("address => fetch(address).then(answer => answer.status)", volume)
        assert own == 200
        beside = ada.context.new_page()
        demo.open(beside)
        assert beside.locator(".viewer.open").count() == 0 and report not in beside.inner_text("body")
        choose_phantom(bob, 2)
        assert written(bob)
        assert ada.inner_text("#report .report") == report


def test_closed_pages_leave_nothing(demo: Demo) -> None:
    "The folder of a page goes with it."
    def settled(number: int) -> bool: return in_time(lambda: len(demo.folders()) == number)

    assert settled(0), demo.folders()
    with demo.person() as page:
        upload(page, demo.file("scan.nii.gz"))
        written(page)
        assert len(demo.folders()) == 1
        assert not list(demo.work.glob("tmp/gradio*")), "gradio keeps something"
    assert settled(0), demo.folders()


def test_keyboard(demo: Demo) -> None:
    "All there is to do can be done without a mouse."
    with demo.person() as page:
        choose_phantom(page)
        written(page)
        page.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(45):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("""() => {
                const e = document.activeElement;
                return e.id || e.dataset.window || e.dataset.sentence && "sentence" || e.getAttribute("aria-label")
                    || e.innerText.slice(0, 30);
            }"""))
        for wanted in ("ct-file", "ct-phantom", "If the file doesn't say", "lung", "bone", "Axial slice", "sentence"):
            assert any(str(name).startswith(wanted) for name in reached), (wanted, reached)
        assert any("Report" in str(name) for name in reached), reached
        page.focus("[data-plane=axial] .stage")
        before = position(page)
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(200)
        assert position(page) != before
        page.focus("[data-window=bone]")
        assert after(page, lambda: page.keyboard.press("Space"))
        page.focus("#report button")
        page.keyboard.press("Enter")
        page.wait_for_selector("section.viewer[data-map]")
        page.get_by_role("tab", name="Questions").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#question textarea:visible, #question input:visible")


def test_phone(demo: Demo) -> None:
    "Nothing reaches beyond the screen of a phone, before a CT and after, in any tab."
    for width in (390, 360):
        with demo.person(viewport={"width": width, "height": 800}, has_touch=True) as page:
            assert widest(page) <= width, widest(page)
            choose_phantom(page)
            written(page)
            page.click(".said summary")
            assert widest(page) <= width, widest(page)
            for name in ("Questions", "Findings", "Cases"):
                open_tab(page, name)
                page.wait_for_timeout(100)
                assert widest(page) <= width, (name, widest(page))


CONTRAST = """(selector) => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(selector);
    let behind = element;
    while (/rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), b];
}"""


def test_light_and_dark(demo: Demo) -> None:
    "Both are readable (contrast of 4.5 : 1), and are what they are called."
    for scheme, dark in [("light", False), ("dark", True)]:
        with demo.person(color_scheme=scheme) as page:
            upload(page, demo.file("thick.nii.gz"))  # which has a warning
            written(page)
            for selector in ("h1", ".disclaimer", "#report button", "#ct-kinds", ".pick-button", ".windows button",
                             "[role=tab][aria-selected=true]", "#message .message"):
                contrast, behind = page.evaluate(CONTRAST, selector)
                assert contrast >= 4.5, f"{scheme}, {selector}: {contrast:.1f}"
            _, behind = page.evaluate(CONTRAST, "h1")
            assert (behind < 0.2) == dark, (scheme, behind)


def test_scrolling_is_smooth(demo: Demo) -> None:
    """At least 20 slices of 512 × 512 a second: by the clock where the machine is free; by the computing time of all
    of the browser's processes in any case, since what neighbours leave of a busy machine varies."""
    with demo.person() as page:
        upload(page, demo.file("large.nii"))
        page.wait_for_selector(".viewer.open")
        assert page.get_attribute("section.viewer", "data-shape").endswith("512 512")
        written(page)
        wait_for_rest(page)
        start, before = time.monotonic(), computing_times()
        drawn = page.evaluate("""async (frames) => {
            const slider = document.querySelector("[data-plane=axial] input");
            const number = document.querySelector("[data-plane=axial] output");
            let drawn = 0, before = number.textContent;
            for (let i = 0; i < frames; i++) {
                slider.value = (Number(slider.value) + 1) % (Number(slider.max) + 1);
                slider.dispatchEvent(new Event("input", {bubbles: true}));
                await new Promise(requestAnimationFrame);
                if (number.textContent !== before) drawn += 1;
                before = number.textContent;
            }
            return drawn;
        }""", 90)
    waited, now = time.monotonic() - start, computing_times()
    computed = sum(used - before.get(process, 0) for process, used in now.items())
    print(f"        {drawn} slices of 512 × 512 in {waited:.1f} s, {drawn / waited:.0f} a second; "
          f"{1000 * computed / drawn:.0f} ms of computing each")
    assert drawn >= 85, drawn
    assert drawn / computed >= SLICES_PER_SECOND, computed
    if os.getloadavg()[0] <= os.cpu_count(): assert drawn / waited >= SLICES_PER_SECOND, waited


def test_asks_nobody_else(demo: Demo) -> None:
    "No request of any page above, and no socket of the server, left this machine."
    with demo.person() as page: page.wait_for_timeout(500)
    assert demo.outside == [], demo.outside
    assert demo.complaints == [], demo.complaints
    log = demo.work / "sockets.log"
    assert not log.exists(), log.read_text()


def test_killed_demo_is_cleaned_up(demo: Demo) -> None:
    "What a killed demo leaves is gone when one is started again. The last test: the demo is gone, too."
    with demo.person() as page:
        upload(page, demo.file("scan.nii.gz"))
        page.wait_for_selector(".viewer.open")
        demo.server.send_signal(signal.SIGKILL)
        demo.server.wait()
    left = list((demo.work / "tmp").glob("hsenet-demo-*"))
    assert len(left) == 1 and any(path.is_file() for path in left[0].rglob("*")), left
    code = "from hsenet.demo.sessions import demo_folder\nwith demo_folder(): pass"
    environment = os.environ | {"TMPDIR": str(demo.work / "tmp")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list((demo.work / "tmp").glob("*hsenet-demo-*")) == []


# --- running them ----------------------------------------------------------------------------------------------------

def chromium() -> str:
    "Where Chromium is; installed where it is missing. Raises `RuntimeError`."
    for name in BROWSERS:
        if shutil.which(name): return shutil.which(name)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Debian's chromium …", flush=True)
        quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-q"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"], **quiet)
        if shutil.which("chromium"): return shutil.which("chromium")
    raise RuntimeError("no Chromium here; on Debian and Ubuntu: apt-get install chromium")


@contextmanager
def started(work: Path) -> Iterator[Demo]:
    "A demo, and a browser for it."
    from playwright.sync_api import sync_playwright

    (work / "tmp").mkdir()
    environment = os.environ | {
        "TMPDIR": str(work / "tmp"), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }
    with open(work / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(work)], stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment, start_new_session=True,
        )
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            address = server.stdout.readline().strip()
            if not address: raise RuntimeError(f"the demo did not start:\n{(work / 'server.log').read_text()}")
            yield Demo(work, server, address, browser)
            browser.close()
    finally:
        if server.poll() is None: os.killpg(server.pid, signal.SIGKILL)


def run_test(demo: Demo, test: Callable) -> bool:
    "Run one, and say how it went."
    start = time.monotonic()
    try:
        test(demo)
        passed, why = True, ""
    except Exception:
        passed, why = False, traceback.format_exc()
    name = test.__name__.removeprefix("test_")
    print(f"{'ok' if passed else 'FAILED':7s} {time.monotonic() - start:5.1f} s  web/{name}\n{why}", end="", flush=True)
    return passed


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--serve"]: return serve_example(Path(words[1])) or 0
    every = [value for name, value in globals().items() if name.startswith("test_")]
    tests = [test for test in every if not words or any(word in test.__name__ for word in words)]
    if not tests:
        print(f"nothing to test has {' or '.join(words)} in its name")
        return 1
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="test-web-"))
    passed = 0
    try:
        with started(work) as demo:
            for test in tests: passed += run_test(demo, test)
        log = (work / "server.log").read_text()
        if passed < len(tests) and log: print(f"the demo's log:\n{log[-4000:]}")
    except RuntimeError as e:
        print(e)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{time.monotonic() - start:.0f} s")
    print(f"{passed} passed, {len(tests) - passed} failed", flush=True)
    return passed != len(tests)


if __name__ == "__main__":
    sys.exit(main())

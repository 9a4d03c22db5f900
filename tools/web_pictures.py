"""Pictures of the demo for its page of the docs: nbs/demo/pictures/*.png.

    python tools/web_pictures.py MODEL INDEX       a bundle, and an index or cache to compare with
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from run import ROOT
from test_web import FLAGS, chromium

PICTURES = ROOT / "nbs/demo/pictures"
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
LARGEST = 200_000  # bytes of a picture
PHANTOM = 1
QUESTIONS = ("Where is the pleural effusion?", "Where is the consolidation?", "Where is the cardiomegaly?")


def save(page, name: str, **how) -> None:
    "A screenshot in few colours, so that it stays small."
    from PIL import Image

    path = PICTURES / f"{name}.png"
    page.screenshot(path=path, **how)
    few = Image.open(path).convert("RGB").quantize(160, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST: raise SystemExit(f"{path}: {size} bytes, more than {LARGEST}")
    print(f"{path.relative_to(ROOT)}  {size / 1000:.0f} kB")


def open_page(browser, address: str, **how):
    "The page with a phantom's report written."
    page = browser.new_context(**how).new_page()
    page.set_default_timeout(240_000)
    page.goto(address)
    page.wait_for_selector("#ct-phantom option:nth-child(2)", state="attached")
    page.select_option("#ct-phantom", index=PHANTOM)
    page.wait_for_selector("#report button")
    return page


def choose_sentence(page, words: tuple[str, ...]) -> None:
    "Click a sentence that has one of the words, the first word first; else the first sentence."
    sentences = page.locator("#report button")
    texts = [text.lower() for text in sentences.all_inner_texts()]
    found = [texts.index(text) for word in words for text in texts if word in text]
    sentences.nth(found[0] if found else 0).click()
    page.wait_for_selector("section.viewer[data-map]")
    page.wait_for_timeout(1500)


def ask(page, question: str, number: int) -> None:
    "Ask, and wait until this, the question of that number, is answered."
    page.fill("#question textarea, #question input", question)
    page.keyboard.press("Enter")
    page.wait_for_function("n => document.querySelectorAll('#chat .answer').length === n", arg=number)
    page.wait_for_selector("#chat .caret", state="detached")


def take(browser, address: str) -> None:
    "All the pictures."
    page = open_page(browser, address, viewport=WIDE, color_scheme="light")
    choose_sentence(page, ("pleural effusion", "consolidation", "heart"))
    save(page, "light")
    page.get_by_role("tab", name="Findings").click()
    page.wait_for_selector("#findings button")
    page.click("[data-window=mediastinum]")
    page.click("#findings button >> nth=0")
    page.wait_for_function("document.querySelector('#findings [aria-pressed=true]')")
    page.wait_for_timeout(1000)
    save(page, "findings")
    page.context.close()

    page = open_page(browser, address, viewport=WIDE, color_scheme="light")
    page.get_by_role("tab", name="Questions").click()
    for number, question in enumerate(QUESTIONS, start=1): ask(page, question, number)
    page.wait_for_timeout(500)
    save(page, "questions")
    page.context.close()

    page = open_page(browser, address, viewport=WIDE, color_scheme="dark")
    page.get_by_role("tab", name="Cases").click()
    page.wait_for_selector("#similar article")
    page.wait_for_timeout(1000)
    save(page, "dark")
    page.context.close()

    page = open_page(browser, address, viewport=PHONE, color_scheme="light", has_touch=True)
    page.wait_for_timeout(2000)
    save(page, "phone", full_page=True)
    page.context.close()


def main() -> int:
    from playwright.sync_api import sync_playwright

    model, index = sys.argv[1:3]
    PICTURES.mkdir(parents=True, exist_ok=True)
    code = "from hsenet.cli import app; app()"
    command = [sys.executable, "-c", code, "demo", "--model", model, "--index", index, "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TMPDIR": folder}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            address = server.stdout.readline().split()[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
                take(browser, address)
                browser.close()
        finally:
            server.terminate()
            server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

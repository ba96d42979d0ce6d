"""A headless Chromium and a server of our own for it, both on the loopback device.

Debian has them in the packages chromium and chromium-driver (make browser). Each is looked for on the PATH, Chromium
first where VISUS_CHROMIUM says. Without them, or without selenium, these tests are skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 40.0  # seconds for what takes a moment, on a busy machine


def chromium() -> str | None:
    return os.environ.get("VISUS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or \
        shutil.which("google-chrome")


@pytest.fixture(scope="session")
def driver():
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'visus[test]'")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, chromedriver = chromium(), shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("no Chromium with its chromedriver on this machine: make browser")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--disable-background-networking", "--no-first-run", "--no-default-browser-check",
                     "--window-size=1280,900", "--use-fake-device-for-media-stream",
                     "--use-fake-ui-for-media-stream"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(chromedriver))
    found.set_script_timeout(PATIENCE)
    yield found
    found.quit()


class Site:
    """A server that runs in a thread of this process, which has torch already."""

    def __init__(self, bundle: Path, **settings):
        from visus.deploy.server.app import make_app
        from visus.deploy.server.serving import Worker, listen
        from visus.deploy.server.settings import ServerSettings
        from visus.run.serve import make_service

        told = ServerSettings(port=0, access_log="", streams=1, drain_seconds=2, **settings)
        self.service, reloader = make_service(bundle, None, told)
        listening = listen(told)
        self.url = f"http://localhost:{listening.getsockname()[1]}/"
        worker = Worker(make_app(self.service, told), self.service, told, reloader)
        started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(worker.run(listening, started.set)), daemon=True)
        self.thread.start()
        assert started.wait(PATIENCE)
        self.worker = worker

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(PATIENCE)


@contextmanager
def serving(bundle: Path, **settings) -> Iterator[Site]:
    site = Site(bundle, **settings)
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="session")
def site(digits_bundle):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    with serving(digits_bundle) as found:
        yield found


class Page:
    """The page in the browser, asked by JavaScript."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url: str) -> Page:
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(url)
        self.until("document.getElementById('state').className !== 'pill'")
        return self

    def ask(self, expression: str, *arguments):
        return self.driver.execute_script(f"return {expression}", *arguments)

    def until(self, expression: str, *arguments) -> None:
        end = time.monotonic() + PATIENCE
        while not self.ask(expression, *arguments):
            assert time.monotonic() < end, f"never true: {expression}; {self.driver.get_log('browser')}"
            time.sleep(0.02)

    def text(self, name: str) -> str:
        return self.ask("document.getElementById(arguments[0]).textContent", name)

    def choose(self, *files: Path) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.ID, "file").send_keys("\n".join(map(str, files)))

    def drop(self, *files: tuple[str, bytes, str]) -> None:
        """(name, content, type) of each, as if dropped from the desktop."""
        self.driver.execute_script("""
            const carried = new DataTransfer();
            for (const [name, bytes, type] of arguments[0])
              carried.items.add(new File([new Uint8Array(bytes)], name, { type }));
            for (const kind of ["dragenter", "dragover", "drop"])
              document.body.dispatchEvent(
                new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
            """, [(name, list(data), kind) for name, data, kind in files])

    def answered(self) -> None:
        self.until("document.querySelector('#strip li') && [...document.querySelectorAll('#strip li')]"
                   ".every(one => one.classList.contains('failed') || one.querySelector('.number'))")

    def set(self, name: str, value) -> None:
        """A control's value, with the events that a hand makes."""
        self.driver.execute_script("""
            const control = document.getElementById(arguments[0]);
            control.value = arguments[1];
            control.dispatchEvent(new Event("input", { bubbles: true }));
            control.dispatchEvent(new Event("change", { bubbles: true }));
            """, name, value)

    def device(self, width: int, *, dark: bool = False, still: bool = False) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}]})

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()


@pytest.fixture
def browser(driver):
    page = Page(driver)
    page.device(1280)
    yield page
    bad = [line for line in driver.get_log("browser") if line["level"] == "SEVERE" and line["source"] != "network"]
    assert not bad, bad

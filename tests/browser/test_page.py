"""The page in a real browser: what a person sees, hears and can do with it."""

from __future__ import annotations

import io
import json
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import serving

DATA = "data:image/png;base64,"


@pytest.fixture(scope="module")
def pictures(digit_files):
    return sorted(digit_files.iterdir())


@pytest.fixture
def opened(browser, site):
    return browser.open(site.url)


def predict(site, path) -> dict:
    request = urllib.request.Request(f"{site.url}predict", data=path.read_bytes(),
                                     headers={"Content-Type": "image/png"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["results"][0]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def bars(page) -> list[tuple[str, float]]:
    return [tuple(one) for one in page.ask(
        "[...document.querySelectorAll('#bars li')].map(row => [row.querySelector('.name').textContent,"
        " Number(row.querySelector('.number').dataset.prob)])")]


def selected(page) -> str:
    return page.text("picture-name")


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["choose", "drop"])
def test_the_answer_shown_is_that_of_predict(opened, site, pictures, how):
    for path in pictures[:2]:
        told = predict(site, path)
        opened.choose(path) if how == "choose" else opened.drop((path.name, path.read_bytes(), "image/png"))
        opened.until("document.getElementById('picture-name').textContent === arguments[0]", path.name)
        opened.answered()
        opened.until("document.querySelectorAll('#bars li').length === 5")
        assert bars(opened) == [(one["label"], one["prob"]) for one in told["top"]]
        assert opened.text("predicted") == told["predicted"][0]
        assert f"{path.name}: {told['predicted'][0]}" in opened.text("live")  # what a screen reader says
        width = opened.ask("document.querySelector('#bars .fill').style.width")
        assert abs(float(width.rstrip("%")) / 100 - told["top"][0]["prob"]) < 1e-3
        assert 0 < opened.ask("document.getElementById('picture').width") <= 960


def test_nothing_that_the_page_loads_comes_from_elsewhere_and_nothing_is_stored(opened, site, pictures):
    opened.choose(pictures[0])
    opened.until("!document.getElementById('map').hidden && !document.getElementById('original').hidden")
    loaded = opened.ask("performance.getEntriesByType('resource').map(one => one.name)")
    assert len(loaded) > 6
    assert all(name.startswith((site.url, "data:", f"blob:{site.url}")) for name in loaded), loaded
    assert opened.ask("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]


def test_two_hundred_bad_files_leave_the_page_alive_and_become_text(opened, pictures):
    opened.drop(*[(f"bad {n}.png", b"no picture %d" % n, "image/png") for n in range(200)],
                ("good.png", pictures[0].read_bytes(), "image/png"))
    slowest = 0.0
    for _ in range(15):  # while they are asked about
        begin = time.monotonic()
        opened.ask("new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)))")
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 2.0
    opened.answered()
    rows = opened.ask("[...document.querySelectorAll('#strip li')].map(one => [one.className,"
                      " one.getAttribute('aria-label')])")
    assert [kind for kind, _ in rows].count("failed") == 200 and len(rows) == 201
    assert "not an image" in rows[0][1] or "is a text file" in rows[0][1] or "image" in rows[0][1]
    assert not opened.ask("document.getElementById('failure').hidden")
    assert opened.text("failure-problem").startswith("bad 0.png: ") and opened.text("failure-remedy")
    opened.ask("document.getElementById('clear').click()")
    assert opened.ask("document.getElementById('strip').children.length") == 0
    assert opened.ask("document.activeElement.id") == "drop"


def test_names_with_markup_stay_text(opened, pictures):
    evil = ["<img src=x onerror=window.broken=1>.png", "<b>bold</b>.png", "\u202egnp.exe", "a&amp;b<script>.png"]
    before = opened.ask("document.querySelectorAll('img, b, script').length")
    opened.drop(*[(name, pictures[0].read_bytes(), "image/png") for name in evil],
                ("<i>bad</i>", b"x", "image/png"))
    opened.answered()
    opened.until("!document.getElementById('map').hidden")
    assert opened.ask("document.querySelectorAll('img, b, script').length") == before
    assert opened.ask("document.querySelectorAll('i').length") == 0 and not opened.ask("window.broken || 0")
    assert selected(opened) == evil[0]


def test_a_huge_picture_is_shown_small_and_one_beyond_reason_is_not_decoded(opened):
    wide = np.zeros((700, 9000), np.uint8)
    wide[:, ::90] = 255
    opened.drop(("wide.png", png(wide), "image/png"))
    opened.until("document.getElementById('picture-name').textContent === 'wide.png'"
                 " && document.getElementById('picture').width === 960")
    assert opened.ask("document.getElementById('picture').height") == 75
    opened.answered()
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")  # 144 megapixels in some kilobytes, and whole
    opened.drop(("bomb.png", bomb.getvalue(), "image/png"))
    opened.answered()
    opened.until("document.getElementById('picture-name').textContent === 'bomb.png'"
                 " && !document.getElementById('no-preview').hidden")
    assert "megapixels" in opened.text("failure-problem")
    largest = opened.ask("Math.max(...[...document.querySelectorAll('canvas')].map(one => one.width * one.height))")
    assert largest <= 960 * 960


# -- why -----------------------------------------------------------------------------------------------------------


def test_the_map_appears_and_changes_with_method_class_and_opacity(opened, pictures):
    opened.choose(pictures[2])
    source = "document.getElementById('map').src"
    opened.until("!document.getElementById('map').hidden")
    seen = [opened.ask(source)]
    assert seen[0].startswith(DATA) and "Grad-CAM" in opened.ask("document.getElementById('map').alt")
    opened.set("method", "occlusion")
    opened.until(f"{source} !== arguments[0]", seen[0])
    seen.append(opened.ask(source))
    opened.set("class", opened.ask("document.getElementById('class').options[1].value"))
    opened.until(f"{source} !== arguments[0]", seen[1])
    seen.append(opened.ask(source))
    assert len(set(seen)) == 3
    assert opened.ask("document.getElementById('class').options[1].textContent") in opened.text("map-words")
    opened.set("opacity", 25)
    assert opened.ask("document.getElementById('map').style.opacity") == "0.25"
    boxes = opened.ask("['under', 'map'].map(name => { const box = document.getElementById(name)"
                       ".getBoundingClientRect(); return [box.x, box.y, box.width, box.height] })")
    assert boxes[0] == boxes[1]  # one over the other
    forms = opened.ask("[under.width / under.height, map.naturalWidth / map.naturalHeight]")
    assert abs(forms[0] - forms[1]) < 0.02


def test_going_on_to_another_picture_drops_the_question_about_the_first(opened, site, pictures, monkeypatch):
    explain, asked = site.service.explain, []

    def slow(image, method, index):
        asked.append(method)
        time.sleep(0.5)
        return explain(image, method, index)

    slow.methods = explain.methods
    monkeypatch.setattr(site.service, "explain", slow)
    opened.choose(*pictures[:3])
    opened.answered()
    opened.until("document.getElementById('map-frame').classList.contains('busy')")
    opened.ask("document.querySelectorAll('#strip li')[2].click()")
    opened.until("!document.getElementById('map').hidden")
    assert pictures[2].name in opened.ask("document.getElementById('map').alt")
    monkeypatch.undo()


# -- how easily it breaks ------------------------------------------------------------------------------------------


def test_the_slider_changes_the_picture_and_shows_the_break(opened, site, pictures):
    opened.choose(pictures[5])
    opened.until("!document.getElementById('original').hidden")
    assert opened.ask("document.getElementById('changed').src === document.getElementById('original').src")
    before = opened.text("before")
    opened.set("epsilon", 16)
    opened.until("document.getElementById('verdict').classList.contains('broken')")
    assert opened.ask("document.getElementById('changed').src !== document.getElementById('original').src")
    assert opened.ask("document.getElementById('difference').src").startswith(DATA)
    label = opened.text("after").partition(",")[0]
    assert label != before.partition(",")[0] and f"now answers {label}" in opened.text("verdict")
    opened.ask("document.getElementById('smallest').click()")
    opened.until("document.getElementById('smallest').disabled === false && !document.getElementById('break')"
                 ".classList.contains('busy')")
    least = int(opened.ask("document.getElementById('epsilon').value"))
    assert f"breaks is {least} of 255" in opened.text("verdict")
    states = opened.ask("[...document.querySelectorAll('#tried span')].map(one => one.className)")
    assert "broken" in states[least - 1] and all("broken" not in one for one in states[:least - 1])
    assert least == 1 or "held" in states[least - 2]
    assert "16" in opened.ask("document.getElementById('tried').getAttribute('aria-label')")


# -- a busy server, keys, the camera -------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again_after_the_time_it_names(opened, site, pictures, monkeypatch):
    from visus.deploy.server.errors import queue_full

    classify, refusals = site.service.classify, []

    def busy(*arguments):
        if len(refusals) < 2:
            refusals.append(time.monotonic())
            raise queue_full()
        return classify(*arguments)

    monkeypatch.setattr(site.service, "classify", busy)
    opened.choose(pictures[0])
    opened.answered()
    assert len(refusals) == 2 and refusals[1] - refusals[0] > 0.7
    assert opened.ask("document.getElementById('failure').hidden") and opened.text("predicted").strip()


def test_a_key_is_asked_for_kept_in_memory_and_used(browser, digits_bundle, pictures):
    from visus.deploy.server.keys import digest

    with serving(digits_bundle, keys=(digest(b"0123456789abcdef"),)) as locked:
        browser.open(locked.url)
        browser.until("!document.getElementById('key-form').hidden")
        browser.choose(pictures[0])
        browser.answered()
        assert "key" in browser.text("failure-problem")
        for key, right in (("wrong-wrong-wrong", False), ("0123456789abcdef", True)):
            browser.set("key", key)
            browser.ask("document.getElementById('key-form').requestSubmit()")
            if not right:
                browser.until("document.getElementById('live').textContent.includes('not accept')")
        browser.until("document.querySelectorAll('#bars li').length === 5")
        assert browser.ask("document.getElementById('key-form').hidden && document.getElementById('key').value === ''")
        assert browser.ask("[document.cookie, localStorage.length]") == ["", 0]


def test_the_camera_gives_a_picture_and_escape_closes_it(opened):
    from selenium.webdriver.common.keys import Keys

    opened.ask("document.getElementById('camera-open').click()")
    opened.until("!document.getElementById('camera').hidden && document.getElementById('video').videoWidth > 0")
    opened.ask("document.getElementById('camera-take').click()")
    opened.answered()
    assert selected(opened).startswith("camera") and len(bars(opened)) == 5
    opened.keys(Keys.ESCAPE)
    assert opened.ask("document.getElementById('camera').hidden && document.getElementById('video').srcObject === null")


# -- for everyone --------------------------------------------------------------------------------------------------


def test_all_can_be_done_by_keyboard(opened, pictures):
    from selenium.webdriver.common.keys import Keys

    def focus() -> str:
        return opened.ask("document.activeElement.id || document.activeElement.className")

    opened.keys(Keys.TAB)
    assert focus() == "skip"
    opened.keys(Keys.TAB, Keys.TAB)
    assert focus() == "drop"
    assert opened.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # the focus is seen
    opened.ask("document.getElementById('file').addEventListener('click', event => { event.preventDefault();"
               " window.asked = true })")
    opened.keys(Keys.ENTER)
    assert opened.ask("window.asked")
    opened.choose(*pictures[:3])
    opened.answered()
    reached = []
    for _ in range(16):
        opened.keys(Keys.TAB)
        reached.append(focus())
    for name in ("camera-open", "clear", "item-1", "method", "class", "opacity", "attack", "epsilon", "smallest"):
        assert name in reached, reached
    assert not {"item-2", "item-3", "file"} & set(reached)  # arrow keys go through the pictures
    opened.ask("document.querySelector('#strip li[aria-selected=true]').focus()")
    for key, name in ((Keys.ARROW_RIGHT, pictures[1].name), (Keys.END, pictures[2].name),
                      (Keys.ARROW_RIGHT, pictures[2].name), (Keys.HOME, pictures[0].name)):
        opened.keys(key)
        assert selected(opened) == name and focus().startswith("item-")
    opened.keys(Keys.DELETE)
    assert selected(opened) == pictures[1].name
    assert opened.ask("document.querySelectorAll('#strip li').length") == 2
    opened.ask("document.getElementById('epsilon').focus()")
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.text("epsilon-value") == "1 / 255"


NAMELESS = """
  const named = (one) => one.getAttribute("aria-label")?.trim() || one.labels?.length || one.textContent.trim()
    || (one.getAttribute("aria-labelledby") || "").split(" ").some(id => document.getElementById(id)?.textContent);
  const shown = (one) => one.checkVisibility();
  return [...document.querySelectorAll("button, a, input, select, summary, [role=listbox], [role=option],"
    + " [tabindex='0'], section, video")].filter(one => shown(one) && !named(one)).map(one => one.outerHTML)
    .concat([...document.querySelectorAll("img")].filter(one => shown(one) && !one.alt).map(one => `img ${one.id}`))
    .concat([...document.querySelectorAll("canvas")].filter(one => shown(one) && !one.closest("[aria-hidden=true]")
      && one.getAttribute("aria-hidden") !== "true" && !one.getAttribute("aria-label")).map(one => `canvas ${one.id}`));
"""

CONTRASTS = """
  const parse = (text) => { const all = text.match(/[\\d.]+/g).map(Number); return [all.slice(0, 3), all[3] ?? 1]; };
  const light = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (one) => { for (; one; one = one.parentElement) { const [rgb, alpha] = parse(getComputedStyle(one)
    .backgroundColor); if (alpha === 1) return rgb; } return [255, 255, 255]; };
  const out = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const one = text.parentElement;
    if (!text.textContent.trim() || !one.checkVisibility() || one.closest(".hidden, .skip, script")) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)[0]), light(ground(one))];
    out.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.textContent.trim().slice(0, 40), one.className]);
  }
  return out;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_has_a_name_and_all_text_stands_out(browser, site, pictures, dark):
    browser.device(1280, dark=dark, still=True)
    browser.open(site.url)
    browser.drop((pictures[5].name, pictures[5].read_bytes(), "image/png"), ("bad.png", b"x", "image/png"))
    browser.until("!document.getElementById('map').hidden && !document.getElementById('original').hidden")
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    browser.set("epsilon", 16)
    browser.until("document.getElementById('verdict').className !== 'verdict'")
    for place in (0, 1):  # an answer, and a failure
        browser.ask("document.querySelectorAll('#strip li')[arguments[0]].click()", place)
        browser.until("document.getElementById('failure').hidden === arguments[0]", place == 0)
        assert browser.driver.execute_script(NAMELESS) == []
        found = browser.driver.execute_script(CONTRASTS)
        assert len(found) > 60
        assert min(found)[0] >= 4.5, [one for one in found if one[0] < 4.5]
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == \
        ("rgb(15, 20, 27)" if dark else "rgb(243, 245, 248)")
    assert browser.ask("document.documentElement.lang") == "en" and "Visus" in browser.ask("document.title")
    heads = browser.ask("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert heads[0] == 1 and heads.count(1) == 1 and all(b - a <= 1 for a, b in zip(heads, heads[1:], strict=False))
    assert browser.ask("[...document.querySelectorAll('[aria-live]')].length") >= 2


def test_the_theme_can_be_chosen_against_the_systems(opened):
    grounds = []
    for _ in range(3):
        opened.ask("document.getElementById('theme').click()")
        grounds.append((opened.text("theme-words"), opened.ask("getComputedStyle(document.body).backgroundColor")))
    assert grounds == [("Light", "rgb(243, 245, 248)"), ("Dark", "rgb(15, 20, 27)"), ("Auto", "rgb(243, 245, 248)")]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_is_wider_than_the_screen_and_nothing_jumps(browser, site, pictures, width):
    browser.device(width, still=True)
    browser.open(site.url)
    browser.ask("new PerformanceObserver(list => list.getEntries().filter(one => !one.hadRecentInput).forEach(one =>"
                " { window.jumped = (window.jumped || 0) + one.value })).observe({ type: 'layout-shift' })")
    long = "a_name_without_any_place_to_break_" * 6 + ".png"
    browser.drop((long, pictures[0].read_bytes(), "image/png"), *[
        (path.name, path.read_bytes(), "image/png") for path in pictures[1:12]])
    browser.answered()
    browser.ask("window.jumped = 0")  # a drop by script is no input that the browser counts
    browser.until("!document.getElementById('map').hidden && !document.getElementById('original').hidden")
    browser.set("epsilon", 8)
    browser.until("document.getElementById('after').textContent.trim() && !document.getElementById('break')"
                  ".classList.contains('busy')")
    assert browser.ask("window.jumped || 0") < 0.02
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert browser.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    outside = browser.ask("[...document.querySelectorAll('main *')].filter(one => one.checkVisibility()"
                          " && !one.closest('.strip, .scroll, .hidden')"
                          " && one.getBoundingClientRect().right > innerWidth).map(one => one.outerHTML.slice(0, 80))")
    assert outside == []
    if width == 360:  # fingers need 24 px (WCAG 2.2, 2.5.8)
        low = browser.ask("[...document.querySelectorAll('button, select, input')].filter(one => one.checkVisibility()"
                          " && one.id !== 'file' && one.getBoundingClientRect().height < 32).map(one => one.id)")
        assert low == []


def test_who_wants_no_motion_sees_none(browser, site):
    browser.device(1280, still=True)
    browser.open(site.url)
    moving = browser.ask("[...document.querySelectorAll('*')].filter(one => { const style = getComputedStyle(one);"
                         " return style.animationName !== 'none' || style.transitionDuration !== '0s'"
                         " || style.scrollBehavior === 'smooth' }).length")
    assert moving == 0


def test_the_card_and_the_limits_are_tables_of_text(opened, site):
    opened.until("document.querySelectorAll('#card table').length >= 2")
    assert opened.text("model") == "resnet20" and "10 classes" in opened.text("sentence")
    words = opened.text("card")
    assert site.service.answering.version in words and "squash" in words
    assert opened.ask("document.querySelectorAll('#card a').length") == 0  # links only as text
    assert opened.text("limit-bytes") == "16 MiB" and opened.text("limit-pixels") == "50 Mpx"

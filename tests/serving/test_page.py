"""The page in a real Chromium, against the real service: what a user sees who types and clicks."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service import Service, Shop

IN_CI = os.environ.get("CI") == "true"  # where nothing is skipped
if IN_CI:
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'linguarec[dev]'")

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b> &amp; \u202etxt'
TOKEN = "a-token-of-some-length"


def chromium_path() -> str:
    """The browser of this machine; the test is skipped where there is none, but not where CI=true."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    reason = "needs Chromium: apt-get install chromium"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium_path()
    playwright.expect.set_options(timeout=20_000)  # a first text loads the encoder, on a machine that runs tests
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def service(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests: what a test adds stays."""
    with Service(shop.run, tmp_path_factory.mktemp("page") / "state.sqlite") as running:
        yield running


def total(service: Service) -> int:
    """How many items there are."""
    found: int = service.client.get("/v1/items", params={"limit": 1}).json()["total"]
    return found


class Page:
    """The page as a user has it before them. What the browser complains of is kept: a test ends with none."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESK, **context})
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.expect("#search-status").to_have_text(re.compile(r"^\d+ items$"))

    def expect(self, selector: str) -> Any:
        return playwright.expect(self.page.locator(selector))

    def search(self, text: str, count: str) -> None:
        """Type into the search and wait for its number of items."""
        self.page.locator("#search").fill(text)
        self.expect("#found").to_have_attribute("aria-busy", "false")
        self.expect("#search-status").to_have_text(count)

    def add(self, raw_id: str) -> None:
        """Add the item of this id to the history."""
        self.search(raw_id, "1 item")
        self.page.locator("#found li").get_by_role("button", name="Add to the history").click()

    def recommended(self) -> list[str]:
        """Ids of the recommended items."""
        self.expect("#best").to_have_attribute("aria-busy", "false")
        self.expect("#best-status").to_have_text(re.compile(r"^\d+ items?$"))
        return self.page.locator("#best .item > .small:nth-of-type(1) > bdi").all_inner_texts()

    def fits(self) -> bool:
        """Nothing stands out beyond the width of the window."""
        fits: bool = self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        return fits


@pytest.fixture
def open_page(browser: Any, service: Service) -> Iterator[Any]:
    """`open_page(**context)`: the page; at the end no page has complained or asked another address."""
    pages: list[Page] = []
    address = f"http://127.0.0.1:{service.port}/"

    def open_one(**context: Any) -> Page:
        pages.append(Page(browser, address, **context))
        return pages[-1]

    yield open_one
    for page in pages:
        assert page.complaints == []
        assert all(url.startswith((address, "data:")) for url in page.requests)
        page.context.close()


def api(service: Service, **body: Any) -> list[dict[str, Any]]:
    """What the service recommends."""
    found: list[dict[str, Any]] = service.client.post("/v1/recommend", json=body).json()["recommendations"][0]
    return found


def test_search_history_and_recommendations(open_page: Any, service: Service, shop: Shop) -> None:
    page = open_page()
    page.expect("#served").to_have_text(re.compile(rf"^run . sasrec-text . {total(service)} items$"))
    page.expect("#found > li").to_have_count(20)
    page.page.get_by_role("button", name="Show more").click()
    page.expect("#found > li").to_have_count(40)
    title = service.client.get(f"/v1/items/{shop.ids[3]}").json()["title"]
    page.search(title, re.compile(r"^\d+ items?$"))  # type: ignore[arg-type]
    page.expect("#found > li:first-child .name").to_have_text(title)
    for raw_id in (shop.ids[3], shop.ids[8]):
        page.add(raw_id)
    page.expect("#history > li").to_have_count(2)
    page.expect("#history-status").to_have_text("2 items, oldest first")
    expected = api(service, histories=[[shop.ids[3], shop.ids[8]]], k=10, explain=True)
    assert page.recommended() == [one["raw_id"] for one in expected]
    best = page.page.locator("#best > li").first
    playwright.expect(best.locator(".name")).to_have_text(expected[0]["title"])
    assert abs(float(best.locator(".score").inner_text().removeprefix("score ")) - expected[0]["score"]) < 1e-3
    assert f"price: {expected[0]['attributes']['price']:g}" in best.locator(".chips").inner_text()
    reasons = best.locator(".reason")
    playwright.expect(reasons).to_have_count(2)
    for line, reason in zip(reasons.all(), expected[0]["reasons"], strict=True):
        assert line.locator("bdi").inner_text() == service.client.get(f"/v1/items/{reason['raw_id']}").json()["title"]
        assert abs(float(line.locator("span").last.inner_text()) - reason["share"]) < 1e-3
    page.page.get_by_label("Items of the history").select_option("learned")
    page.recommended()
    playwright.expect(best).to_contain_text(re.compile(r"score = sasrec-text [\d.]+ \+ repeats [-\d.]+"))
    page.page.get_by_label("Items of the history").select_option("true")
    page.page.get_by_label("How many").select_option("5")
    page.expect("#best > li").to_have_count(5)
    page.page.locator("#best > li").first.get_by_role("button").click()
    page.expect("#history > li").to_have_count(3)
    page.page.locator("#history > li").nth(1).get_by_role("button").click()
    page.expect("#history-status").to_have_text("2 items, oldest first")
    kept = [shop.ids[3], expected[0]["raw_id"]]
    page.expect("#best .item .small bdi >> nth=0").to_have_text(api(service, histories=[kept], k=5)[0]["raw_id"])
    page.page.get_by_role("button", name="Clear the history").click()
    page.expect("#best > li").to_have_count(0)
    page.expect("#best-status").to_have_text("Recommendations appear once there is a history.")


def test_filters_and_their_errors(open_page: Any, service: Service, shop: Shop) -> None:
    page = open_page()
    page.add(shop.ids[0])
    page.expect("#filter-help").to_have_text('title == "..." and price <= 20')
    page.page.locator("#filter").fill("price <= 4.5")
    page.expect("#best-status").to_have_text("3 items")
    assert set(page.recommended()) == set(shop.ids[1:4])
    page.page.locator("#filter").fill("price <=")
    page.expect("#best-problem").to_have_text(re.compile("^The filter, at character 9: found the end of the filter"))
    page.expect("#best > li").to_have_count(0)
    page.complaints.clear()  # Chromium reports the answer 422 itself
    page.page.locator("#filter").fill("price < 0")
    page.expect("#best-status").to_have_text("No item may be recommended.")
    page.expect("#best-problem").to_be_empty()


def test_a_new_item_is_recommended_and_removed_again(open_page: Any, service: Service, shop: Shop) -> None:
    """It has the title of the best item, so that one filter finds both."""
    page, before = open_page(), total(service)
    page.add(shop.ids[0])
    best = api(service, histories=[[shop.ids[0]]], k=1)[0]
    assert page.recommended()[0] == best["raw_id"]
    page.page.locator("#field-raw_id").fill("made here")
    for name, value in best["attributes"].items():
        page.page.get_by_label(name, exact=True).fill(str(value))
    page.page.get_by_role("button", name="Add the item").click()
    page.expect("#new-status").to_have_text(f"Added: {best['title']}")
    page.page.get_by_label("How many").select_option("50")
    found = page.recommended()
    assert found == [one["raw_id"] for one in api(service, histories=[[shop.ids[0]]], k=50)] and "made here" in found
    page.page.locator("#filter").fill(f'title == "{best["title"]}"')
    assert set(page.recommended()) == {best["raw_id"], "made here"}
    page.expect("#best .badge").to_have_text("new")
    page.expect("#served").to_have_text(re.compile(rf" {before + 1} items$"))
    page.search("made here", "1 item")
    remove = page.page.locator("#found").get_by_role("button", name="Remove from the catalogue")
    remove.click()
    assert service.client.get("/v1/items/made%20here").status_code == 200  # it asked first
    playwright.expect(remove).to_have_text("Really remove?")
    remove.click()
    page.expect("#search-status").to_have_text(f"Removed: {best['title']}. 0 items")
    page.expect("#best").not_to_contain_text("made here")
    assert service.client.get("/v1/items/made%20here").status_code == 404


def test_an_item_that_is_refused_says_why(open_page: Any) -> None:
    page = open_page()
    page.page.locator("#field-raw_id").fill("n")
    page.page.get_by_label("title", exact=True).fill("Something")
    page.page.get_by_label("price", exact=True).fill("cheap")
    page.page.get_by_role("button", name="Add the item").click()
    page.expect("#new-problem").to_contain_text("'price' is 'cheap'")
    assert page.page.get_by_label("title", exact=True).input_value() == "Something"  # nothing is lost
    page.complaints.clear()  # Chromium reports the answer 422 itself


def test_markup_is_text(open_page: Any, shop: Shop) -> None:
    page = open_page()
    page.page.locator("#field-raw_id").fill(f"{MARKUP} id")
    page.page.get_by_label("title", exact=True).fill(MARKUP)
    page.page.get_by_label("brand", exact=True).fill(MARKUP)
    page.page.get_by_role("button", name="Add the item").click()
    page.expect("#new-status").to_have_text(f"Added: {MARKUP}")
    page.search("onerror", "1 item")
    page.expect("#found .name").to_have_text(MARKUP)
    page.expect("#found .chips").to_contain_text(MARKUP)
    page.page.locator("#found").get_by_role("button", name="Add to the history").click()
    page.expect("#history .name").to_have_text(MARKUP)
    page.recommended()
    page.expect("#best .reason >> nth=0").to_contain_text(MARKUP)
    assert page.page.locator("main img, main b, main script").count() == 0
    assert page.page.title() == "linguarec"
    assert page.fits()


def test_the_policy_of_the_page(open_page: Any, service: Service) -> None:
    page = open_page()
    headers = service.client.get("/").headers
    assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    blocked = page.page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'run'";
            document.body.append(script);
        })"""
    )
    assert blocked == "script-src-elem" and page.page.title() == "linguarec"
    page.complaints.clear()  # of the violation that was wanted


def test_with_the_keyboard_alone(open_page: Any, service: Service, shop: Shop) -> None:
    page = open_page()
    keyboard = page.page.keyboard
    focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
    keyboard.press("/")
    assert page.page.evaluate(focused) == "search"
    keyboard.type(shop.ids[5])
    page.expect("#search-status").to_have_text("1 item")
    keyboard.press("Tab")
    assert page.page.evaluate(focused).startswith("Add to the history: ")
    outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    keyboard.press("Enter")
    page.expect("#history > li").to_have_count(1)
    assert page.page.evaluate(focused).startswith("Add to the history: ")  # the focus stays
    page.recommended()
    page.page.locator("#best button").nth(2).focus()
    keyboard.press("Enter")
    page.expect("#history > li").to_have_count(2)
    page.recommended()
    assert page.page.evaluate("document.activeElement.closest('#best') !== null")  # though the list is another one
    for left in (1, 0):
        page.page.locator("#history button").first.focus()
        keyboard.press("Space")
        page.expect("#history > li").to_have_count(left)
    assert page.page.evaluate(focused) == "search"
    names = page.page.evaluate("[...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length")
    assert names == 0


def channels(colour: str) -> list[int]:
    return [int(value) for value in re.findall(r"\d+", colour)[:3]]


def luminance(colour: list[int]) -> float:
    """Relative luminance as of WCAG 2."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (c / 255 for c in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(scheme: str, open_page: Any, shop: Shop) -> None:
    page = open_page(color_scheme=scheme)
    page.add(shop.ids[0])
    page.recommended()
    colours = (
        "(s) => { const of = getComputedStyle(document.querySelector(s)); return [of.color, of.backgroundColor]; }"
    )
    body, card = channels(page.page.evaluate(colours, "body")[1]), channels(page.page.evaluate(colours, "section")[1])
    assert (luminance(body) < 0.1) == (scheme == "dark")
    for selector in ("body", ".small", ".chips", "#best .reason", "button.main", ".buttons button:not(.main)"):
        ink, own = (channels(colour) for colour in page.page.evaluate(colours, selector))
        paper = own if selector == "button.main" else card
        bright, dim = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, selector


def test_a_phone(open_page: Any, shop: Shop) -> None:
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.fits()
    page.page.locator("#field-raw_id").fill("long")
    page.page.get_by_label("title", exact=True).fill("Donaudampfschifffahrt" * 20)
    page.page.get_by_role("button", name="Add the item").tap()
    page.expect("#new-status").to_contain_text("Added")
    page.search("long", "1 item")
    page.page.locator("#found").get_by_role("button", name="Add to the history").tap()
    page.expect("#best > li").to_have_count(10)
    page.page.locator("#about summary").tap()
    assert page.fits()
    heights = page.page.evaluate(
        "[...document.querySelectorAll('main button')].map((b) => b.offsetHeight).filter(Boolean)"
    )
    assert min(heights) >= 36


def test_what_is_served(open_page: Any, shop: Shop) -> None:
    page = open_page()
    page.page.locator("#about summary").click()
    facts = page.page.locator("#facts").inner_text()
    for part in ("sasrec-text", "price (numbers)", "all-MiniLM-L6-v2", "metrics, test", "linguarec"):
        assert part in facts


def test_a_service_that_asks_for_a_token(browser: Any, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    with Service(shop.run, tmp_path / "state.sqlite", "--token-file", str(tmp_path / "tokens")) as running:
        page = Page(browser, f"http://127.0.0.1:{running.port}/")
        page.page.locator("#field-raw_id").fill("n")
        page.page.get_by_label("title", exact=True).fill("A teapot")
        page.page.get_by_role("button", name="Add the item").click()
        page.expect("#new-problem").to_have_text(re.compile("^A token is needed"))
        page.page.locator("#token").fill(TOKEN)
        page.page.locator("#token").press("Tab")
        page.expect("#field-raw_id").to_have_value("n")
        page.page.get_by_role("button", name="Add the item").click()
        page.expect("#new-status").to_have_text("Added: A teapot")
        page.context.close()


def test_a_model_that_takes_no_new_items(browser: Any, shop: Shop, tmp_path: Path) -> None:
    with Service(shop.by_id, tmp_path / "state.sqlite") as running:
        page = Page(browser, f"http://127.0.0.1:{running.port}/")
        page.expect("#new-status").to_contain_text("takes no new ones")
        assert page.page.get_by_role("button", name="Add the item").is_disabled()
        assert page.complaints == []
        page.context.close()


def test_a_service_that_is_gone(browser: Any, shop: Shop, tmp_path: Path) -> None:
    with Service(shop.run, tmp_path / "state.sqlite") as running:
        page = Page(browser, f"http://127.0.0.1:{running.port}/")
        page.add(shop.ids[0])
        page.recommended()
        running.stop()
        page.page.get_by_label("How many").select_option("5")
        page.expect("#best-problem").to_have_text("The service does not answer. Is it still running?")
        page.context.close()

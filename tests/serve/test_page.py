"""The page in a browser: what people do on it, by pointer, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened, Tab, chromium, tabs
from serving import Served, news, serving

from moee_index import Document, Encoder, Index

QUERY = "a vote in parliament"
KEY = "a-key-of-some-length"
RTL = "\u202e"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Opened]:
    with tabs(browser, served) as one:
        yield one


@pytest.fixture
def tab(opened: Opened) -> Tab:
    return opened()


def found(served: Served, **body: Any) -> list[str]:
    answer = served.post("/v1/search", {"index": "news", "query": QUERY, **body})
    assert answer.status == 200, answer.content
    return [hit["id"] for hit in answer.json["hits"]]


def place(tab: Tab, selector: str, value: int) -> None:
    """Move a slider as a pointer does that is not let go yet."""
    tab.page.eval_on_selector(
        selector,
        "(slider, value) => { slider.value = String(value); "
        "slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def let_go(tab: Tab, selector: str) -> None:
    tab.page.eval_on_selector(
        selector, "(slider) => slider.dispatchEvent(new Event('change', { bubbles: true }))"
    )


def test_a_search_shows_what_the_server_finds(tab: Tab, served: Served) -> None:
    tab.open()
    tab.search(QUERY)
    assert tab.ids == found(served)
    answer = served.post("/v1/search", {"index": "news", "query": QUERY}).json
    hit, words = answer["hits"][0], answer["lexical"]
    first = tab.page.locator(".hit").first
    assert first.locator("h3").inner_text() == hit["metadata"]["title"]
    assert first.locator(".score").inner_text().endswith(f"{hit['score']:.3f}".replace("-", "−"))
    shares = first.locator(".numbers").inner_text()
    each = (1 - words) / (1 + answer["alpha"])
    for name, share in (
        ("HS", each * hit["hs"]),
        ("RW", each * answer["alpha"] * hit["rw"]),
        ("words", words * hit["lexical"]),
    ):
        assert f"{name} {share:.3f}".replace("-", "−") in shares
    marked = [hit["snippet"][start:stop] for start, stop in hit["marks"]]
    assert marked and first.locator("mark").all_inner_texts() == marked
    assert first.locator(".snippet").inner_text() == hit["snippet"]
    assert "part" in first.locator(".fields").inner_text()
    assert "exact" in tab.text("#status") and "120 documents" in tab.text("#status")


def test_the_bar_is_as_long_as_the_shares(tab: Tab) -> None:
    tab.open(q=QUERY)
    widths = tab.page.eval_on_selector_all(
        ".hit:first-child .share", "shares => shares.map((share) => parseFloat(share.style.width))"
    )
    assert len(widths) == 3 and sum(widths) == pytest.approx(100, abs=0.5)


def test_sliders_reorder_at_once_without_a_request(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY)
    before, asked = tab.ids, tab.searches()
    place(tab, "#alpha", 0)
    assert tab.ids != before and tab.searches() == asked
    place(tab, "#words", 60)
    assert tab.searches() == asked
    assert tab.page.locator(".hit").first.locator(".of-words").count() > 0
    let_go(tab, "#words")
    tab.settled()
    tab.until("(ids) => [...document.querySelectorAll('.hit')].map((hit) => hit.dataset.id)"
              ".join() === ids.join()", found(served, alpha=0, lexical=0.6))  # fmt: skip
    assert "alpha=0" in tab.page.url and "words=0.6" in tab.page.url


def test_scores_are_the_servers_under_other_weights(tab: Tab, served: Served) -> None:
    body = {"index": "news", "query": QUERY, "alpha": 3, "lexical": 0.25}
    hits = served.post("/v1/search", body).json["hits"]
    tab.open(q=QUERY)
    place(tab, "#alpha", 75)
    place(tab, "#words", 25)
    let_go(tab, "#words")
    tab.until("(id) => document.querySelector('.hit').dataset.id === id", hits[0]["id"])
    assert tab.text(".hit:first-child .score").endswith(f"{hits[0]['score']:.3f}")


def test_a_deeper_list_is_fetched_where_the_order_could_change(tab: Tab, served: Served) -> None:
    """50 of 120 documents are known at first; routing alone has others among its best."""
    tab.open(q=QUERY, k=20)
    for value in (95, 0, 60):
        place(tab, "#alpha", value)
        let_go(tab, "#alpha")
        tab.settled()
        alpha = round(value / (100 - value), 2)
        tab.until(
            "(ids) => [...document.querySelectorAll('.hit')].map((hit) => hit.dataset.id).join()"
            " === ids.join()",
            found(served, alpha=alpha, k=20),
        )


# Documents whose parts are drawn by chance, and lists of them as a server would give.
_POOL = """
async ({ asked, most }) => {
  const { Pool, weights } = await import("/page/pool.js");
  let seed = 7;
  const chance = () => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648;
  const about = () => (chance() + chance() + chance() + chance() - 2) / 2;
  const all = [...Array(1500)].map((_, id) => ({
    id: `d${id}`, hs: about(), rw: about() * 0.7, lexical: chance() < 0.9 ? 0 : chance(),
  }));
  const score = (hit, under) => hit.hs * under[0] + hit.rw * under[1] + hit.lexical * under[2];
  const best = (alpha, words, count) => {
    const under = weights("sum", alpha, words);
    return all.map((hit) => ({ ...hit, score: score(hit, under) }))
      .sort((left, right) => right.score - left.score).slice(0, count);
  };
  const pool = new Pool("sum", true);
  const fetch = (alpha, words) => pool.add(best(alpha, words, 50), alpha, words, 50);
  fetch(1, 1e-6);
  let known = 0, wrong = 0;
  for (let at = 0; at < asked; at += 1) {
    const alpha = Math.exp(3 * about());
    const words = chance() < 0.3 ? 0 : 0.6 * chance();
    if (pool.knows(most, alpha, words)) {
      known += 1;
      const mine = pool.ordered(alpha, words).slice(0, most).map(({ hit }) => hit.id);
      const right = best(alpha, words, most).map((hit) => hit.id);
      wrong += mine.join() !== right.join();
    } else fetch(alpha, Math.max(words, 1e-6));
  }
  return { known, wrong };
}
"""


def test_what_a_pool_says_it_knows_is_right(tab: Tab) -> None:
    tab.open()
    answer = tab.page.evaluate(_POOL, {"asked": 300, "most": 10})
    assert answer["wrong"] == 0
    # And it knows most of the time, else every step would ask.
    assert answer["known"] > 250


def test_signs_of_a_query_are_conditions(tab: Tab, served: Served) -> None:
    query = "+parliament vote -election"
    tab.open(q=query)
    assert tab.ids == found(served, query=query, syntax=True)
    every = found(served, query=query, k=120, syntax=True)
    assert 0 < len(every) < 120
    # Facets count those alone, and the picture is of what is searched for.
    tab.page.wait_for_selector(".facet")
    counts = tab.page.locator(".facet .count").all_inner_texts()
    assert sum(map(int, counts)) == len(every)
    hit = served.post("/v1/search", {"index": "news", "query": query, "syntax": True}).json
    tab.page.locator("[data-routing]").first.click()
    tab.page.wait_for_selector(".uses li")
    assert f"RW similarity {hit['hits'][0]['rw']:.3f}" in tab.text(".routing-intro")


def test_methods_pages_and_sizes(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY)
    tab.page.select_option("#method", "concat")
    tab.settled()
    assert tab.ids == found(served, method="concat")
    assert not tab.page.locator("#alpha").is_visible()
    tab.page.select_option("#k", "5")
    tab.settled()
    tab.page.click("#next")
    tab.settled()
    assert tab.ids == found(served, method="concat", k=5, offset=5)
    assert tab.text("#page-number") == "Page 2"
    tab.page.click("#previous")
    tab.settled()
    assert tab.ids == found(served, method="concat", k=5)


def test_field_names_are_completed(tab: Tab) -> None:
    tab.open(q=QUERY)
    tab.page.click("#filter")
    tab.page.keyboard.type("pa")
    tab.page.wait_for_selector("#filter-fields li")
    assert tab.page.get_attribute("#filter", "aria-expanded") == "true"
    tab.page.keyboard.press("ArrowDown")
    assert tab.page.get_attribute("#filter", "aria-activedescendant") == "field-0"
    tab.page.keyboard.press("Enter")
    assert tab.page.input_value("#filter") == "part "
    tab.page.keyboard.type('= "evening"')
    tab.until("() => document.querySelector('#filter-note').textContent.includes('match')")
    assert "40 documents match" in tab.text("#filter-note")
    tab.page.keyboard.press("Enter")
    tab.settled()
    tab.until("() => [...document.querySelectorAll('.hit .fields')].every("
              "(fields) => fields.textContent.includes('evening'))")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "at"), [("part = ", " "), ("number ! 3", "!"), ('part = "𝕏" ! 3', "!")]
)
def test_a_filters_fault_is_marked_where_it_is(tab: Tab, text: str, at: str) -> None:
    tab.refused = True
    tab.open(q=QUERY)
    tab.page.fill("#filter", text)
    tab.page.wait_for_selector("#filter[aria-invalid=true]")
    assert tab.page.eval_on_selector("mark.fault", "mark => mark.textContent") == at
    tab.page.press("#filter", "Enter")
    tab.page.wait_for_selector("[role=alert]")
    assert "The filter cannot be read" in tab.text("[role=alert]")
    tab.page.fill("#filter", "number > 3")
    tab.page.press("#filter", "Enter")
    tab.page.wait_for_selector(".hit")
    assert tab.page.get_attribute("#filter", "aria-invalid") is None


def test_facets_narrow_down_and_count(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY)
    tab.page.wait_for_selector(".facet")
    facet = tab.page.locator(".facet", has_text="part")
    assert "80" in facet.locator(".value", has_text="morning").inner_text()
    facet.locator("input").nth(1).check()
    tab.until("() => location.hash.includes('pick=')")
    tab.settled()
    evening = 'part = "evening"'
    assert tab.ids == found(served, filter=evening)
    # Values of the field that was picked from are counted as before.
    tab.until("() => document.querySelectorAll('.facet .value').length === 2")
    assert "80" in facet.locator(".value", has_text="morning").inner_text()
    facet.locator("input").nth(0).check()
    tab.until("() => document.querySelectorAll('.facet input:checked').length === 2")
    tab.settled()
    assert tab.ids == found(served)


def test_nothing_found_says_so_and_helps(tab: Tab) -> None:
    tab.open(q=QUERY, filter="number < 0")
    assert "No document matches" in tab.text("#message")
    tab.page.click("text=Search without them")
    tab.page.wait_for_selector(".hit")
    assert tab.page.input_value("#filter") == ""


def test_the_routing_picture_is_of_the_hit(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY)
    hit = served.post("/v1/search", {"index": "news", "query": QUERY}).json["hits"][0]
    tab.page.locator("[data-routing]").first.click()
    tab.page.wait_for_selector(".uses li")
    assert f"RW similarity {hit['rw']:.3f}" in tab.text(".routing-intro")
    # Three pictures, none of one color.
    colors = tab.page.eval_on_selector_all(
        ".routing canvas",
        """canvases => canvases.map((canvas) => {
          const { data } = canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height);
          const seen = new Set();
          for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 3).join());
          return seen.size;
        })""",
    )
    assert len(colors) == 3 and min(colors) > 20
    before = tab.text(".readout")
    tab.page.focus(".maps")
    tab.page.keyboard.press("ArrowDown" if "Layer 1" in before else "ArrowUp")
    after = tab.text(".readout")
    assert after != before and "adds" in after
    name = after.split(":")[0]
    tab.until("(name) => document.querySelector('.used .note').textContent.startsWith(name)", name)
    assert "among all 120 rows" in tab.text(".used .note")
    assert tab.page.locator(".layers li").count() == 4
    # The cell under the pointer.
    tab.page.locator(".routing canvas").nth(2).hover(position={"x": 33, "y": 4})
    assert "Layer 1, expert 0" in tab.text(".readout")
    tab.page.click(".uses li button")
    tab.page.wait_for_selector("#text-dialog .whole-text")


def test_whole_texts_have_neighbours(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY, index="passages", passages="1")
    identifier = tab.ids[0].rpartition("#")[0] or tab.ids[0]
    count = served.get(f"/v1/indexes/passages/passages?id={identifier}").json["of"]
    tab.open(q=QUERY, index="passages", passages="1", text=f"{identifier}#1")
    tab.until(f"() => document.querySelector('#text-place').textContent === 'Passage 1 of {count}'")
    first = tab.text("#text-body .whole-text")
    assert tab.page.is_disabled("#text-previous")
    tab.page.click("#text-next")
    tab.until(f"() => document.querySelector('#text-place').textContent === 'Passage 2 of {count}'")
    assert tab.text("#text-body .whole-text") != first
    tab.page.go_back()
    tab.until(f"() => document.querySelector('#text-place').textContent === 'Passage 1 of {count}'")
    assert tab.text("#text-body .whole-text") == first


def test_two_texts_side_by_side(tab: Tab) -> None:
    tab.open(q=QUERY)
    boxes = tab.page.locator(".hit .actions input")
    boxes.nth(0).check()
    assert tab.page.is_disabled("#compare")
    boxes.nth(2).check()
    tab.page.click("#compare")
    tab.page.wait_for_selector("#pair-dialog .uses li")
    titles = tab.page.locator("#pair-dialog article h3").all_inner_texts()
    assert titles == [tab.text(".hit:nth-child(1) h3"), tab.text(".hit:nth-child(3) h3")]
    assert "First text" in tab.text("#pair-dialog .readout")
    tab.page.keyboard.press("Escape")
    tab.until("() => !document.querySelector('#pair-dialog').open")
    assert "pair" not in tab.page.url


def test_more_like_a_hit(tab: Tab, served: Served) -> None:
    tab.open(q=QUERY)
    name = tab.ids[0]
    tab.page.locator("text=More like this").first.click()
    tab.until("() => location.hash.includes('like=')")
    tab.settled()
    like = served.post("/v1/search", {"index": "news", "like": name}).json["hits"]
    tab.until("(id) => document.querySelector('.hit')?.dataset.id === id", like[0]["id"])
    assert tab.ids == [hit["id"] for hit in like]


def test_the_list_as_csv(tab: Tab) -> None:
    tab.open(q=QUERY)
    with tab.page.expect_download() as waiting:
        tab.page.click("#csv")
    content = Path(waiting.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content)))
    assert [row["id"] for row in rows] == tab.ids
    assert rows[0]["metadata.part"] in ("morning", "evening")
    assert waiting.value.suggested_filename == "news.csv"


def test_back_and_forward_go_through_all_states(tab: Tab) -> None:
    tab.open()
    tab.search("storm")
    storm = tab.ids
    tab.search(QUERY)
    vote = tab.ids
    tab.page.click("#next")
    tab.settled()
    second = tab.ids
    tab.page.locator("text=Whole text").first.click()
    tab.page.wait_for_selector("#text-dialog[open]")
    states = [second, vote, storm]
    for expected in states:
        tab.page.go_back()
        tab.until("(id) => document.querySelector('.hit')?.dataset.id === id", expected[0])
        tab.settled()
        assert tab.ids == expected
    assert not tab.page.locator("#text-dialog").is_visible()
    assert tab.page.input_value("#query") == "storm"
    tab.page.go_back()
    tab.page.wait_for_selector(".welcome")
    for expected in reversed(states):
        tab.page.go_forward()
        tab.until("(id) => document.querySelector('.hit')?.dataset.id === id", expected[0])
    tab.page.reload()
    tab.settled()
    assert tab.ids == second


def test_back_undoes_a_slider(tab: Tab) -> None:
    tab.open(q=QUERY)
    before = tab.ids
    for value in (60, 70, 80):
        place(tab, "#alpha", value)
    let_go(tab, "#alpha")
    tab.settled()
    tab.page.go_back()
    tab.until("() => !location.hash.includes('alpha')")
    assert tab.ids == before


def test_the_keyboard_alone_is_enough(tab: Tab) -> None:
    tab.open()
    press, focused = tab.page.keyboard.press, "document.activeElement"
    assert tab.page.evaluate(f"{focused}.id") == "query"
    tab.page.keyboard.type(QUERY)
    press("Enter")
    tab.settled()

    def tab_to(condition: str) -> None:
        for _ in range(80):
            press("Tab")
            if tab.page.evaluate(f"(() => {{ const at = {focused}; return {condition}; }})()"):
                return
        raise AssertionError(f"Tab never comes to where {condition}")

    tab_to("at.id === 'alpha'")
    before = tab.ids
    for _ in range(25):
        press("ArrowLeft")
    tab.settled()
    assert tab.ids != before
    tab_to("at.dataset.routing !== undefined")
    press("Enter")
    tab.page.wait_for_selector(".uses li")
    tab_to("at.className === 'maps'")
    press("ArrowRight")
    tab_to("at.textContent === 'Whole text'")
    press("Enter")
    tab.page.wait_for_selector("#text-dialog .whole-text")
    # The focus is held in the dialog, and comes back.
    for _ in range(8):
        press("Tab")
        assert tab.page.evaluate(
            f"{focused} === document.body || {focused}.closest('dialog') !== null"
        )
    press("Escape")
    tab.until("() => !document.querySelector('#text-dialog').open")
    assert tab.page.evaluate(f"{focused}.textContent") == "Whole text"


def test_the_way_past_the_form_is_one_key(tab: Tab) -> None:
    tab.open(q=QUERY)
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.id") == "skip"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "results"
    assert tab.ids


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(opened: Opened, width: int) -> None:
    tab = opened(viewport={"width": width, "height": 700}, has_touch=True)
    tab.open()
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert tab.page.evaluate(fits)
    tab.search(QUERY)
    tab.page.locator("summary", has_text="Weights").click()
    tab.page.locator("summary", has_text="Narrow down").click()
    tab.page.locator("[data-routing]").first.tap()
    tab.page.wait_for_selector(".uses li")
    assert tab.page.evaluate(fits)
    tab.page.locator("text=Whole text").first.tap()
    tab.page.wait_for_selector("#text-dialog .whole-text")
    assert tab.page.evaluate(fits)
    box = tab.page.locator("#text-dialog").bounding_box()
    assert box is not None and box["width"] <= width


def brightness(tab: Tab, selector: str, what: str) -> float:
    color = tab.page.eval_on_selector(
        selector, "(place, what) => getComputedStyle(place)[what]", what
    )
    return sum(map(float, color[color.index("(") + 1 : -1].split(",")[:3])) / 3


def test_dark_mode_is_dark(opened: Opened) -> None:
    tab = opened(color_scheme="dark")
    tab.open(q=QUERY, routing="")
    assert brightness(tab, "body", "backgroundColor") < 40
    assert brightness(tab, ".hit", "backgroundColor") < 50
    assert brightness(tab, ".snippet", "color") > 200
    tab.page.locator("[data-routing]").first.click()
    tab.page.wait_for_selector(".uses li")
    corner = "canvas => [...canvas.getContext('2d').getImageData(canvas.width - 8, 8, 1, 1).data]"
    dark = tab.page.eval_on_selector(".routing canvas", corner)
    tab.page.emulate_media(color_scheme="light")
    tab.until(
        f"(dark) => ({corner})(document.querySelector('.routing canvas')).join() !== dark.join()",
        dark,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Opened, scheme: str) -> None:
    """axe-core's rules for assistive technology, in each state of the page."""
    axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = opened(color_scheme=scheme)

    def check() -> None:
        found = axe_api.Axe().run(tab.page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []

    tab.open()
    check()
    tab.search(QUERY)
    tab.page.wait_for_selector(".facet")
    tab.page.locator("[data-routing]").first.click()
    tab.page.wait_for_selector(".uses li")
    tab.page.fill("#filter", "part = ")
    tab.page.wait_for_selector("#filter[aria-invalid=true]")
    check()
    tab.page.fill("#filter", "")
    tab.page.locator("text=Whole text").first.click()
    tab.page.wait_for_selector("#text-dialog .whole-text")
    check()


HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "javascript:window.hacked=1",
    "{{constructor.constructor('window.hacked=1')()}}",
    f"{RTL}gnp.exe evil \u2066 mixed",
    "\u0000-free but \x1b[31m red",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Iterator[Served]:
    documents = [
        Document(
            f"../{number}/..//<b>{number}</b>?#%2e&é+",
            f"{text} and the parliament votes",
            {"kind": text, "<i>name</i>": text, "same": "=1+1|cmd", "onclick": "alert(1)"},
            title=f"{text} title",
        )
        for number, text in enumerate(2 * HOSTILE)
    ]
    directory = tmp_path_factory.mktemp("hostile") / "hostile"
    Index.build(directory, documents, tiny).close()
    with serving(directory) as running:
        yield running


def test_hostile_documents_are_only_text(browser: Any, hostile: Served) -> None:
    with tabs(browser, hostile) as opened:
        tab = opened()
        tab.open(q=HOSTILE[0], k=20)
        assert len(tab.ids) == 2 * len(HOSTILE)
        tab.page.wait_for_selector(".facet")
        titles = tab.page.eval_on_selector_all(
            ".hit h3", "titles => titles.map((title) => title.textContent)"
        )
        assert sorted(titles) == sorted(f"{text} title" for text in 2 * HOSTILE)
        assert (
            tab.page.locator("#results img, #results svg, #results script, #results b").count() == 0
        )
        for name in tab.ids[:4]:
            tab.open(q=HOSTILE[0], text=name, routing=name)
            tab.page.wait_for_selector("#text-dialog .whole-text")
            tab.page.wait_for_selector(".uses li")
        with tab.page.expect_download() as waiting:
            tab.page.keyboard.press("Escape")
            tab.page.wait_for_selector("#text-dialog", state="hidden")
            tab.page.click("#csv")
        rows = list(
            csv.DictReader(
                io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8-sig"), newline="")
            )
        )
        # No spreadsheet takes it for a formula.
        assert {row["metadata.same"] for row in rows} == {"'=1+1|cmd"}
        assert tab.page.evaluate("window.hacked") is None
        # A facet of such a value asks for that very value.
        tab.open(q=HOSTILE[0])
        tab.page.wait_for_selector(".facet")
        box = tab.page.locator(".facet").first.locator("input").first
        box.check()
        tab.until("() => document.querySelectorAll('.hit').length === 2")
        assert tab.page.evaluate("window.hacked") is None


def test_bidirectional_text_stays_in_its_place(browser: Any, hostile: Served) -> None:
    """What turns a text round ends with it: the score stands right of its title."""
    with tabs(browser, hostile) as opened:
        tab = opened()
        tab.open(q=HOSTILE[5])
        hit = tab.page.locator(".hit", has_text="evil").first
        isolated = "each => getComputedStyle(each).unicodeBidi"
        for selector in ("h3 span", ".snippet", ".fields dd"):
            assert hit.locator(selector).first.evaluate(isolated) in ("isolate", "plaintext")
        title = hit.locator("h3").bounding_box()
        score = hit.locator(".score").bounding_box()
        assert title["x"] < score["x"]
        assert float(hit.locator(".score").inner_text().split()[-1]) > 0


def test_a_key_is_asked_for_and_kept_for_the_tab(
    browser: Any, news_index: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n", encoding="utf-8")
    with serving(news_index, "--api-key-file", keys) as locked, tabs(browser, locked) as opened:
        tab = opened()
        tab.refused = True
        tab.page.goto(f"{locked.url}/#q=storm")
        tab.page.wait_for_selector("#key-dialog[open]")
        tab.page.keyboard.type("not the key at all")
        tab.page.keyboard.press("Enter")
        tab.until("() => document.querySelector('#key-note').textContent.includes('not know')")
        tab.page.keyboard.type(KEY)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".hit")
        assert KEY not in tab.page.url and not any(KEY in path for _, path in tab.requests)
        tab.page.reload()
        tab.settled()
        assert tab.ids and not tab.page.locator("#key-dialog").is_visible()
        assert tab.page.evaluate("localStorage.length") == 0


def test_a_server_that_is_gone_is_told(browser: Any, news_index: Path) -> None:
    with serving(news_index) as leaving, tabs(browser, leaving) as opened:
        tab = opened()
        tab.refused = True
        tab.open()
        leaving.end()
        tab.page.fill("#query", QUERY)
        tab.page.press("#query", "Enter")
        tab.page.wait_for_selector("[role=alert]")
        assert "does not answer" in tab.text("[role=alert]")


def test_queries_are_never_in_what_is_sent_as_an_address(tab: Tab) -> None:
    tab.open(q="a very secret query")
    tab.page.reload()
    tab.settled()
    assert not any("secret" in path for _, path in tab.requests)


def test_every_file_is_sent_with_a_strict_policy(served: Served) -> None:
    page = served.get("/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    content = page.content.decode()
    for path in ("/", "/page/main.js", "/page/page.css", "/page/icon.svg"):
        answer = served.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = served.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status == 304 and not again.content
    assert "style=" not in content and " onclick" not in content and "://" not in content
    for path in ("/page/files.py", "/page/__init__.py", "/page/..%2ffiles.py", "/page/", "/page/x"):
        assert served.get(path).status == 404, path


def test_the_page_writes_no_markup_and_matches_no_text(served: Served) -> None:
    """Texts become text nodes alone, and no expression runs over somebody's text."""
    folder = Path(__file__).parent.parent.parent / "moee_index" / "serve" / "page"
    for script in folder.glob("*.js"):
        source = script.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                     "RegExp", ".match(", ".matchAll(", "new Function", "DOMParser"):  # fmt: skip
            assert word not in source, (script.name, word)
        assert served.get(f"/page/{script.name}").content == source.encode()


def test_the_first_hit_of_the_news_is_what_the_corpus_holds(tab: Tab) -> None:
    """A whole text is the document's own, to the character."""
    document = news(5)[4]
    tab.open(q=document.title, text=document.id)
    tab.page.wait_for_selector("#text-dialog .whole-text")
    text = tab.page.eval_on_selector("#text-dialog .whole-text", "place => place.textContent")
    assert text == document.text
    assert json.dumps(document.metadata["number"]) in tab.text("#text-dialog .fields")


def test_an_approximate_answer_is_compared_with_the_exact_one(
    browser: Any, tmp_path: Path, tiny: Encoder
) -> None:
    words = [
        "river",
        "stone",
        "cloud",
        "ember",
        "forest",
        "meadow",
        "harbor",
        "lantern",
        "silver",
        "copper",
    ]
    documents = [
        Document(f"d{n}", " ".join(words[n // 10**at % 10] for at in range(3)) + f" {n}")
        for n in range(2000)
    ]
    directory = tmp_path / "rough"
    Index.build(directory, documents, tiny, index_type="IVF128,PQ4x4").close()
    body = {"query": "river in winter", "lexical": 0, "k": 20}
    with serving(directory) as rough, tabs(browser, rough) as opened:
        exact = rough.post("/v1/search", {**body, "exact": True}).json
        with Index.open(directory, tiny) as index:
            raw = tiny.encode([body["query"]], query=True)
            every = index.search_embeddings(raw, 2000, texts=[str(body["query"])], lexical=0)[0]
        assert exact["exact"] is True
        assert [hit["id"] for hit in exact["hits"]] == [hit.id for hit in every[:20]]
        tab = opened()
        tab.open(q=body["query"], words=0, k=20)
        assert "approximate" in tab.text("#status")
        tab.page.click("#exact")
        tab.page.wait_for_selector(".missed")
        right = len({hit["id"] for hit in exact["hits"]} & set(tab.ids))
        said = tab.text(".missed strong")
        assert said == ("All 20 are right" if right == 20 else f"{right} of 20 are right")
        assert tab.page.locator(".missed li").count() == 20 - right

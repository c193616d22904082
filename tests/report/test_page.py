"""The page: whole, in order, alone, and harmless, whatever names it is fed."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from autofash import manifest
from autofash.confirming import confirm
from autofash.errors import ResourceError
from autofash.executors import InlineExecutor
from autofash.figures import percent
from autofash.report import gather, page, write
from autofash.space import FloatParam, Space
from autofash.study import Study, load_study
from tests.report.conftest import CONFIG, SPACE, told
from tests.report.handmade import predictions, save

SECTIONS = [
    "result",
    "leaderboard",
    "history",
    "importances",
    "parallel",
    "edges",
    "curves",
    "confusion",
    "classes",
    "pairs",
    "mistakes",
    "hits",
    "calibration",
    "cost",
    "exports",
    "reproduce",
]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "\x1b[31mred\x00",
    "right\u202eto left",
    "$\\frac{1}{2}$",
    "a\nb",
    "]]><!--",
    "\ud800",
    'Ankle boot & "co" url(http://example.org)',
)


def test_the_sections_come_in_their_order(study: Study) -> None:
    save(study)
    assert re.findall(r'<section id="(\w+)"', page(gather(study))) == SECTIONS


def test_a_study_without_a_model_has_every_section_and_the_command_that_fills_them(study: Study) -> None:
    drawn = page(gather(study))
    assert re.findall(r'<section id="(\w+)"', drawn) == SECTIONS
    assert drawn.count("autofash best digits-small --export") >= 8


def test_the_page_needs_nothing_from_anywhere(study: Study) -> None:
    save(study, exports={"keras": {"bytes": 12_345, "latency_p50_ms": 1.25, "agreement": 1.0}})
    drawn = page(gather(study))
    addresses = [
        *re.findall(r"""\b(?:src|href|xlink:href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]*)""", drawn),
        *re.findall(r"url\(\s*[\"']?([^\"')]*)", drawn),
    ]
    assert addresses and all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert "<script" not in drawn and "@import" not in drawn and "<link" not in drawn
    assert len(drawn.encode()) < 1_500_000


def test_every_anchor_leads_to_a_part_of_the_page_and_no_id_is_given_twice(study: Study) -> None:
    save(study)
    drawn = page(gather(study))
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', drawn)) | set(re.findall(r"url\(#([^)]+)", drawn)) <= set(ids)


def test_charts_follow_the_pages_colours_and_say_what_they_show(study: Study) -> None:
    save(study)
    drawn = page(gather(study))
    charts = re.findall(r"<svg.*?</svg>", drawn, flags=re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        assert not re.search(r"#0[0-9a-f]{5}\b", chart.replace('"#', "")) and "var(--" in chart
        assert re.search(r'role="img" aria-label="[^"]{20,}"', chart) and "<text" in chart


def test_hostile_names_are_shown_and_do_nothing(study: Study) -> None:
    save(study, names=HOSTILE)
    drawn = page(gather(study))
    assert (
        "<script" not in drawn and "<img src=x" not in drawn and "49" not in re.findall(r"<th[^>]*>([^<]*)</th>", drawn)
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in drawn and "{{ 7 * 7 }}" in unescape(drawn)
    assert not re.search("[\x00-\x08\x1b\u202e\ud800]", drawn)
    drawn.encode()


def test_a_hostile_space_and_data_set_do_nothing(workplace: Path) -> None:
    space = Space("mlp", {"learning_rate": FloatParam(low=1e-4, high=1e-2)}, name="<b onmouseover=alert(1)>")
    study = told(space, [({"family": "mlp", "learning_rate": 1e-3}, [0.5, 0.6])], name="mine", dataset="<h5>")
    save(study, machine="<i>", versions={"<u>": "<s>"}, exports={"<q>": {"bytes": "<p>"}})
    study.note_opening({"when": "<tt>", "command": "<em>", "trial": "<h6>"})
    drawn = page(gather(load_study("mine")))
    assert not re.search(r"<(b onmouse|i>|u>|s>|q>|tt>|em>|h5>|h6>)", drawn)
    assert "'<b onmouseover=alert(1)>.toml'" in unescape(drawn)  # quoted for the shell


def test_a_hundred_classes_are_shown_by_the_twenty_with_the_most_mistakes(study: Study) -> None:
    probabilities, labels = predictions(2000, 100, sure=6.0)
    save(study, names=[f"kind {number}" for number in range(100)], drawn=(probabilities, labels))
    drawn = page(gather(study))
    assert "The 20 of 100 classes with the most mistakes." in drawn
    assert len(drawn.encode()) < 1_500_000


def test_a_study_of_five_thousand_trials_still_makes_a_page_of_modest_size(study: Study) -> None:
    facts = gather(study)
    many = {
        "history": tuple(replace(facts.history[number % 24], trial=number) for number in range(5000)),
        "lines": tuple(replace(facts.lines[number % 24], trial=number) for number in range(5000)),
    }
    assert len(page(replace(facts, **many)).encode()) < 1_500_000


def test_pictures_in_colour_and_large_ones_are_shown_small(study: Study) -> None:
    place = save(study, channels=3)
    vouched, rows = manifest.read(place), np.arange(20)
    images = np.random.default_rng(0).integers(0, 256, (20, 300, 200, 3), dtype=np.uint8)
    np.savez_compressed(place / manifest.GALLERY, images=images, rows=rows)
    manifest.write(place, vouched, [manifest.PREDICTIONS, manifest.GALLERY])
    assert len(page(gather(study)).encode()) < 1_500_000


def test_a_single_trial_without_any_spread_has_a_report(workplace: Path) -> None:
    drawn = page(gather(told(SPACE, [(CONFIG, [0.5])])))
    assert re.findall(r'<section id="(\w+)"', drawn) == SECTIONS and "nan" not in drawn


def test_a_page_is_put_in_its_place_whole_and_what_cannot_be_written_is_said(study: Study, workplace: Path) -> None:
    facts = gather(study)
    write(facts, Path("out/report.html"))
    assert [path.name for path in Path("out").iterdir()] == ["report.html"]
    (workplace / "taken").mkdir()
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        write(facts, Path("taken"))
    assert caught.value.code == "E-REPORT" and not list(workplace.glob(".taken*"))
    with pytest.raises(ResourceError, match="cannot be written"):
        write(facts, Path("out/report.html/below.html"))


def chromium() -> str:
    """A browser to look with, or a skip that says what is missing."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("there is no chromium on PATH to open the page in")


def test_a_browser_opens_it_without_a_word_of_complaint(study: Study, tmp_path: Path) -> None:
    save(study, names=HOSTILE)
    facts = gather(study)
    file = tmp_path / "report.html"
    write(facts, file)
    shown = subprocess.run(
        [
            chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'chromium'}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert re.findall(r'<section id="(\w+)"', shown.stdout) == SECTIONS
    assert shown.stdout.count("<svg") == 5 and shown.stdout.count("<img") == len(
        (facts.tested.mistakes + facts.tested.hits) if facts.tested else ()
    )
    assert "<script" not in shown.stdout


def test_confirmed_configs_stand_in_a_table_with_their_seeds(study: Study) -> None:
    executor = InlineExecutor()
    try:
        entries = confirm(study, top=2, seeds=2, task="tests.fakes:learn", executor=executor)
    finally:
        executor.close()
    drawn = page(gather(study))
    table = drawn[drawn.index("Confirmed over seeds") : drawn.index('id="history"')]
    assert [f'<td class="n">{entry.record.number}</td>' in table for entry in entries] == [True, True]
    assert percent(entries[0].interval.value).replace(" %", "\u00a0%") in table


def test_the_classics_have_a_section_where_the_data_set_is_theirs(workplace: Path) -> None:
    drawn = page(gather(told(SPACE, [(CONFIG, [0.9])], dataset="fashion_mnist")))
    assert re.findall(r'<section id="(\w+)"', drawn) == [*SECTIONS[:-1], "baselines", "reproduce"]
    assert drawn.count("not measured here: <code>autofash baselines</code>") == 5


def test_another_objective_stands_beside_the_accuracy(study: Study) -> None:
    drawn = page(replace(gather(study), objective="macro_f1"))
    assert '<th class="n">macro f1</th><th class="n">validation</th>' in drawn

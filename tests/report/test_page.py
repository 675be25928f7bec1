import base64
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import soundfile

from lt25 import report
from lt25.errors import UserError
from lt25.files import load_record, write_record
from lt25.report.classification import mistakes
from lt25.report.collect import collect
from lt25.report.page import bars, data_rows, highlight, story, unique
from lt25.report.speech_recognition import utterances

from .trees import make

VOID = {"meta", "img", "br"}


class Structure(HTMLParser):
    """Checks that tags close in order; collects ids, links and outside references."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def structure(page):
    parser = Structure()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_needs_nothing_from_outside(page):
    parsed = structure(page)
    assert all(reference.startswith(("#", "data:")) for reference in parsed.references)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert len(page) < 5_000_000


def test_ids_are_unique_and_every_link_has_its_target(page):
    parsed = structure(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = {reference[1:] for reference in parsed.references if reference.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(parsed.ids)


def test_each_experiment_shows_its_number_and_what_it_was_measured_on(page, experiments):
    for experiment in experiments:
        shown = story(collect(experiment), experiment.name)["headline"]
        assert page.count(f">{shown.value}<") >= 2
        assert shown.on in page
        assert f'<section class="experiment" id="{experiment.name}">' in page
    assert "gzip -9" in page
    assert "2.11.0" in page


def test_each_task_has_its_baselines_or_says_why_there_are_none(experiments, page):
    digits, spoken, source = (story(collect(experiment), "x")["headline"] for experiment in experiments)
    # The best first: more is better for the one, less for the other.
    assert [name for name, *_ in bars(digits)] == ["this model", "linear model", "most frequent class"]
    numbers = [float(said) for _, said, *_ in bars(source)]
    assert numbers == sorted(numbers)
    assert {name for name, *_ in bars(source)} == {"this model", "unigram", "gzip -9", "xz -9"}
    shares = [share for _, _, share, _ in bars(digits)]
    assert shares == pytest.approx([digits.measured / 100, 0.9, 0.1])
    assert max(share for _, _, share, _ in bars(source)) == 1
    assert bars(spoken) == []
    assert "No simple baseline stands beside it" in page


def test_captions_do_not_say_more_than_the_lines(page):
    assert "falling over" not in page
    assert "A falling line" not in page


def test_sparklines_say_what_they_show(page):
    for shown in re.findall(r'<a class="card".*?</a>', page, re.DOTALL):
        assert re.search(r"training loss</span><span>[\d.]+ → [\d.]+<", shown)


def test_on_a_narrow_screen_every_cell_says_what_it_is(page):
    cells = re.findall(r"<td([^>]*)>", page)
    assert cells
    assert all("data-label=" in cell or 'class="text"' in cell for cell in cells)
    narrow = page[page.index("@media (max-width: 44rem)") : page.index("@media print")]
    # Only the heads of tables, whose words stand beside the cells, are not shown.
    assert re.findall(r"([^{}]*)\{[^}]*display: none", narrow) == ["\n  thead "]


def test_names_that_look_alike_have_ids_of_their_own():
    keys = unique(["a@optimizer.lr=0.1", "a@optimizer.lr-0.1", "ä b", "a"])
    assert len(set(keys)) == 4
    assert all(re.fullmatch(r"[\w-]+", key, re.ASCII) for key in keys)


def test_text_of_users_cannot_become_markup(page):
    assert "Read &lt;all&gt; lines" in page
    assert "<all>" not in page


def test_blank_lines_of_samples_stay(page):
    assert "lines.\n\n\n    Blank lines stay.\n" in page


def test_what_was_left_out_of_the_data_is_said(page, experiments):
    rows = data_rows(collect(experiments[1]))
    assert rows["columns"] == ["Examples", "Audio", "Characters", "Speakers"]
    assert rows["rows"][0] == ("train", ["4,000", "2 h 32 min", "71,000", "60"])
    assert "Left out of train while preparing: 3, longer than 30 s." in page
    assert "Of test, 1,200 have the same content as examples of train or validation." in page


def test_plots_follow_light_and_dark(page):
    for colour in ("#2f8f9d", "#75797f", "#cc8a3b", "#b8596e", "#71757b"):
        assert colour not in page
    assert "prefers-color-scheme: dark" in page


def test_mistakes_show_the_example_they_speak_of(experiments):
    results = collect(experiments[0])
    shown = mistakes(results)
    table = results.predictions
    wrong = table[(table["split"] == "test") & ~table["correct"]]
    assert len(shown) == min(len(wrong), 18)
    top = wrong.sort_values("probability").iloc[-1]
    assert all(shown[0][key] == top[key] for key in ("id", "reference", "prediction"))

    from PIL import Image
    from sklearn.datasets import load_digits

    image = Image.open(io.BytesIO(base64.b64decode(shown[0]["picture"].split(",")[1])))
    number = int(top["id"].split("-")[1])
    # the test split of the tree is examples 180 to 360
    original = load_digits().images[180 + number]
    assert image.size == (8, 8)
    alpha = [image.getpixel((x, y))[3] for y in range(8) for x in range(8)]
    assert alpha == [int(255 * v / original.max()) for v in original.ravel()]


def test_utterances_show_what_was_heard_and_can_be_heard(experiments):
    results = collect(experiments[1])
    rows = results.headline_predictions().head(7)
    shown = utterances(results, rows)
    for u, errors in zip(shown, rows["errors"], strict=True):
        assert sum(kind != "equal" for kind, *_ in u["pairs"]) == errors
        assert u["errors"] == ("1 error" if errors == 1 else f"{errors} errors")
    assert shown[0]["sound"].startswith("data:audio/mpeg;base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(shown[0]["sound"].split(",")[1])))
    assert rate == 16_000
    assert 0.9 < len(samples) / rate < 1.2


def test_the_learning_curve_has_the_kept_steps_and_the_last(experiments):
    assert [metrics["step"] for metrics in collect(experiments[0]).steps] == [200, 400, 600]


def test_the_learning_curve_is_whole_where_its_steps_were_evaluated_elsewhere(experiments, tmp_path):
    experiment = replace(experiments[0], root=shutil.copytree(experiments[0].root, tmp_path / "pulled"))
    folders = sorted(experiment.evaluation_dir.glob("step-*"))
    write_record(
        experiment.evaluation_dir / "steps.json", {"steps": [load_record(one / "metrics.json") for one in folders]}
    )
    for folder in folders:
        shutil.rmtree(folder)
    results = collect(experiment)
    assert [metrics["step"] for metrics in results.steps] == [200, 400, 600]
    assert results.history and results.validations
    (experiment.evaluation_dir / "steps.json").write_text("{")
    with pytest.raises(UserError, match=rf"run `lt25 evaluate {experiment.name} --export --kept`"):
        collect(experiment)


def test_utterances_to_listen_to_are_drawn_from_all(experiments, page):
    assert "What it hears" in page
    assert "drawn at random from the test split" in page
    assert page.index("What it hears") < page.index("The hardest utterances")
    assert page.count("<audio") == 10


def test_a_model_of_the_best_step_says_so(experiments):
    results = collect(experiments[0])
    best = {"step": 600, "metric": "accuracy", "value": 0.93}
    chosen = replace(results, train={**results.train, "steps": 700, "best": best})
    facts = dict(story(chosen, "x")["facts"])
    assert facts["Model of step"] == "600 of 700, the best on the validation split (accuracy 0.9300)"


def test_a_model_that_was_continued_says_how_it_came_about(experiments):
    results = collect(experiments[0])
    assert "Came about" not in dict(story(results, "x")["facts"])
    path = [{"from": 0, "steps": 300}, {"from": 300, "steps": 600}]
    facts = dict(story(replace(results, train={**results.train, "path": path}), "x")["facts"])
    assert facts["Came about"] == "trained to step 300 of a schedule of 300 steps, then continued to 600"


def test_a_cut_off_line_of_the_history_is_left_out(experiments):
    assert collect(experiments[0]).history[-1]["step"] == 596


def test_only_the_evaluation_is_needed(tmp_path):
    experiment = make(tmp_path, "speech_recognition", "bare")
    folder = experiment.results_dir
    for path in (folder / "train.json", experiment.processed_dir / "stats.json"):
        path.unlink()
    (experiment.processed_dir / "test.parquet").unlink()
    report.build([experiment], tmp_path / "page.html")
    structure((tmp_path / "page.html").read_text())


def test_an_experiment_without_an_evaluation_says_what_to_do(tmp_path):
    experiment = make(tmp_path, "language_modeling", "new")
    path = experiment.results_dir / "evaluation" / "metrics.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"metrics.json: damaged .*: run `lt25 export new && lt25 evaluate new`"):
        report.build([experiment], tmp_path / "page.html")
    assert not path.exists()
    with pytest.raises(UserError, match="run `lt25 export new && lt25 evaluate new`"):
        report.build([experiment], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_configuration_is_marked_and_escaped():
    marked = highlight("# top\nlr: 1.0e-3  # half of <it>\nname: 'a # b'\n- {lr: 2}")
    assert marked == (
        "<i># top</i>\n<b>lr</b>: 1.0e-3  <i># half of &lt;it&gt;</i>\n<b>name</b>: &#39;a # b&#39;\n- {<b>lr</b>: 2}"
    )


def test_an_evaluation_of_another_model_is_one_line(tmp_path):
    experiment = make(tmp_path, "classification", "stale")
    folder = experiment.results_dir
    write_record(folder / "hf" / "export.json", {"fingerprint": "0123456789ab-400"})
    with pytest.raises(
        UserError, match=r"hf: exported from 0123456789ab-400, and .* is 0123456789ab-600: run `lt25 export"
    ):
        report.build([experiment], tmp_path / "page.html")
    assert not (folder / "hf" / "export.json").exists()
    write_record(folder / "hf" / "export.json", {"fingerprint": "0123456789ab-600"})
    collect(experiment)
    metrics = load_record(folder / "evaluation" / "metrics.json")
    write_record(folder / "evaluation" / "metrics.json", {**metrics, "model": "0123456789ab-400"})
    with pytest.raises(
        UserError,
        match=r"measured on 0123456789ab-400, and .* is 0123456789ab-600: run `lt25 export stale && lt25 evaluate",
    ):
        report.build([experiment], tmp_path / "page.html")

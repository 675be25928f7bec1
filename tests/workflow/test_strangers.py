"""Folders that nobody made for lt25, each with one dataset file written from README.md and docs/data.md, to a report."""

import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from lt25.cli import main
from lt25.experiment import load_experiment
from tests import tiny
from tests.data import make
from tests.workflow import chain

README = (tiny.REPOSITORY / "README.md").read_text()
DOCS = (tiny.REPOSITORY / "docs" / "data.md").read_text()


def photographs(root):
    """Photographs of a camera, a scanner and a telephone, upright and on their side; one is broken."""
    rng, exif = np.random.default_rng(0), Image.Exif()
    for number in range(50):
        kind, orientation = ("oak", "elm")[number % 2], (1, 6, 8)[number % 3]
        exif[0x0112] = orientation
        shape = ((90, 120, 3), (70, 70, 3))[number % 4 == 0]
        path = root / "leaves of autumn" / kind / f"IMG {number:04}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(100 * (number % 2), 150 + 100 * (number % 2), shape).astype(np.uint8)).save(
            path, "JPEG", exif=exif
        )
    path.write_bytes(path.read_bytes()[:500])
    make.write(root / "leaves of autumn/oak/scan.png", make.png(rng.integers(0, 60000, (40, 50)).astype(np.uint16)))
    make.write(root / "leaves of autumn/oak/IMG 9999.HEIC", b"\0")
    make.write(root / "leaves of autumn/oak/Thumbs.db", b"\0")
    return root / "leaves of autumn"


def memos(root):
    """Voice memos, and a spreadsheet of what was said that names one that is lost."""
    rng, words = np.random.default_rng(1), ["Hello,", "yes!", "NO", "Zoë", "“call”", "me", "it’s", "5", "1st"]
    lines = ["Memo;What was said"]
    for number in range(50):
        make.write(
            root / f"memos/2024/memo{number}.wav",
            make.audio(rng, 1 + number % 3 / 5, (44100, 22050)[number % 2], "WAV"),
        )
        lines.append(f'2024/memo{number}.wav;"{" ".join(rng.choice(words, 2))}"')
    lines.append("2024/lost.wav;hello")
    make.write(root / "memos/what was said.csv", "\r\n".join(lines))
    return root / "memos"


def letters(root):
    """Letters in Latin-1, with the line ends of Windows."""
    rng = np.random.default_rng(2)
    syllables = ["ré", "ma", "çon", "l'é", "té", "où", "vent", "que", "pas", "bon", "ô", "jour"]
    for number in range(40):
        words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(600)]
        text = "\r\n".join(" ".join(words[start : start + 8]) for start in range(0, len(words), 8))
        make.write(root / f"letters/{1900 + number // 4}/{number:02}.txt", text.encode("latin-1"))
    return root / "letters"


def sensors(root):
    """Readings in long form, several series a file, their rows mixed; one has a gap."""
    rng = np.random.default_rng(3)
    for file in range(4):
        rows = []
        for series in range(12):
            kind = ("walk", "rest")[series % 2]
            values = 9.81 + (1 + series % 2) * rng.standard_normal((20 + series, 3))
            cells = [[f"{value:.4f}" for value in step] for step in values]
            cells[3][1] = "" if file == series == 1 else cells[3][1]
            rows += [f"s{series},{step / 50:.2f},{','.join(cell)},{kind}" for step, cell in enumerate(cells)]
        rng.shuffle(rows)
        make.write(root / f"sensors/day{file}.csv", "\n".join(["id,time,x,y,z,label", *rows]) + "\n")
    return root / "sensors"


# A folder, the row of the table in docs/data.md that is like it, what else its dataset file says, an experiment to begin from,
# and what is left out.
STRANGERS = {
    "leaves": (photographs, "photographs", {}, "digits", "a file that cannot be read"),
    "memos": (
        memos,
        "voice memos",
        {"columns": {"audio": "Memo", "text": "What was said"}},
        "spoken-digits",
        "a missing file",
    ),
    "letters": (letters, "letters in Latin-1", {"encoding": "latin-1"}, "stdlib-lm", None),
    "sensors": (sensors, "sensors in CSV, in long form", {}, "digits", "values that are no numbers"),
}
TASKS = {"digits": "classification", "spoken-digits": "speech_recognition", "stdlib-lm": "language_modeling"}


def cut(root):
    """Give a project the repository's configuration, with experiments of a few steps of a few examples."""
    shutil.copytree(tiny.REPOSITORY / "config", root / "config")
    for like in TASKS:
        path = root / "config/experiments" / f"{like}.yaml"
        experiment = yaml.safe_load(path.read_text())
        experiment["training"] |= {"steps": 3, "local_batch_size": 4}
        experiment["lr_scheduler"]["warmup_steps"] = 1
        experiment["evaluation"] = {"new_tokens": 4, "max_bytes": 2000} if like == "stdlib-lm" else {}
        path.write_text(yaml.safe_dump(experiment))
    return root


def write_dataset(root, name):
    """Write a dataset file: README's, with the columns that docs/data.md gives for such a folder."""
    make_folder, like_row, further, like, _ = STRANGERS[name]
    (block,) = re.findall(r"```yaml\n# config/datasets/leaves.yaml\n(.*?)```", README, re.DOTALL)
    (columns,) = re.findall(rf"^\| {re.escape(like_row)}[^|]*\| `(\{{.*?\}})`", DOCS, re.MULTILINE)
    folder = make_folder(root / "a stranger's disk")
    dataset = yaml.safe_load(block) | {"columns": yaml.safe_load(columns), "origin": {"path": str(folder)}}
    dataset |= {"title": name, "tasks": [TASKS[like]], **further}
    (root / "config/datasets" / f"{name}.yaml").write_text(yaml.safe_dump(dataset))


def test_each_folder_reaches_the_report(tmp_path, monkeypatch, capsys):
    project = cut(tmp_path)
    monkeypatch.chdir(project)
    for name, (_, _, _, like, left_out) in STRANGERS.items():
        write_dataset(project, name)
        for command in (
            ["new", name, "--like", like, "--dataset", name],
            ["check", name],
            ["download", name],
            ["prepare", name],
            ["configure", name],
        ):
            assert main(command) == 0, (command, capsys.readouterr())
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert (f"1 x {left_out}" in said) if left_out else ("left out" not in said)
        if name == "leaves":
            for line in (
                "1 file .heic: not read: convert to JPEG",
                "1 file .db: not read",
                "1 x a file of a kind that is",
            ):
                assert line in said
        done = tiny.train(load_experiment(name))
        assert done.returncode == 0, done.stderr
        for command in (["export", name], ["evaluate", name]):
            assert main(command) == 0, (command, capsys.readouterr())
    assert main(["report", *STRANGERS]) == 0
    page = (project / "results/report.html").read_text()
    for name, (_, _, _, _, left_out) in STRANGERS.items():
        assert f"<title>{name}" in page or name in page
        assert not left_out or left_out in page


@pytest.mark.slow
def test_each_folder_reaches_the_report_by_snakemake(tmp_path):
    """Slow, because each of thirty stages is a process of its own, which imports torch."""
    root = cut(tmp_path)
    for name in ("workflow", "Snakefile"):
        (root / name).symlink_to(tiny.REPOSITORY / name)
    (root / "profiles").symlink_to("workflow/profiles")
    for name, (_, _, _, like, _) in STRANGERS.items():
        write_dataset(root, name)
        assert chain.run(root, "lt25", "new", name, "--like", like, "--dataset", name).returncode == 0
    (root / "config/config.yaml").write_text(yaml.safe_dump({"experiments": list(STRANGERS)}))
    done = chain.snakemake(root)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    page = (root / "results/report.html").read_text()
    assert all(left_out in page for *_, left_out in STRANGERS.values() if left_out)

"""Bad input, generated: experiment files, dataset files, sweeps, job files and command lines that nobody would write.

    python -m tests.faults.bad_input 10000 --seed 0 --table docs/bad-input.md

Every case is a command that is run in this process. It has to end with an answer: status 0, or 2 and one line. A traceback is a
failure, and so is a file that is written outside the project, or any process that is started.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import tomli_w
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lt25 import cli
from lt25.config.sections import DATASET, EXPERIMENT, JOB
from lt25.errors import UserError
from lt25.launch import Launch
from lt25.report.markdown import replace
from lt25.tasks import TASKS
from lt25.training.ahead import settle
from tests import tiny
from tests.data import make

KINDS = ("experiment files", "dataset files", "sweeps", "job files", "command lines")
MARK = "<!-- cases -->"

HOSTILE = (
    *(
        "../../outside",
        "/outside",
        "~/outside",
        "..",
        ".",
        "-",
        "--help",
        "@",
        "a@b",
        "a@optimizer.lr=1",
        "*",
        "a/b",
        "CON",
    ),
    *(
        "$(touch pwned)",
        "; touch pwned",
        "`touch pwned`",
        "| touch pwned",
        "a && touch pwned",
        "${HOME}",
        "%(x)s",
        "{wildcards}",
    ),
    *(
        "a\nb",
        "a\0b",
        "a\rb",
        "\x1b[31m",
        "x" * 300,
        "é",
        "\ud800",
        "😀",
        "null",
        "1e3",
        "0x10",
        "nan",
        "yes",
        "",
        " ",
        "'",
        '"',
    ),
)
"""Words that a path, a shell, a template or a terminal might take for more than a word."""

ODD_YAML = (
    "&a [*a]",
    "task: &a {b: *a}",
    "!!python/object/apply:os.system ['touch pwned']",
    "? [1, 2]\n: 3",
    "? {a: 1}\n: 3",
    "1: 2",
    "task: 2024-01-01",
    "<<: 3",
    "<<: [1]",
    "model: {<<: *x}",
    "a: !!binary x",
    "a: !!int x",
    "a: !!bool x",
    "a: !!timestamp x",
    "a: 2024-99-99",
    "--- 1\n--- 2",
    "\t",
    "[" * 2000,
    "{a: " * 2000,
    "'",
    "%YAML 9.9\n---\na: 1",
    "task: classification\ntask: recall",
    "training: {steps: 1" + "0" * 5000 + "}",
)
"""Files that YAML has trouble with, or its readers."""

_texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12))
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from((2**31, -(2**63), 2**64, 10**400, 1e308, -1e-300, float("nan"), float("inf"), -float("inf"))),
    st.floats(),
    _texts,
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(_texts, st.integers()), inner, max_size=3)
    ),
    max_leaves=6,
)


def _keys(section: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, key in section.items():
        yield (*prefix, name)
        yield from _keys(key.keys or {}, (*prefix, name))


_OF_TASK = {name: getattr(TASKS["classification"], name) for name in ("prepare", "augment", "evaluation")}
_EXPERIMENT_KEYS = [
    *_keys(EXPERIMENT),
    *((section, *key) for section, keys in _OF_TASK.items() for key in _keys(keys)),
    *(
        ("model", name)
        for name in ("model_type", "base", "hidden_size", "num_hidden_layers", "architectures", "dtype", "norm")
    ),
]
_DATASET_KEYS = [
    *_keys(DATASET),
    ("columns", "image"),
    ("columns", "label"),
    ("splits", "test", "from"),
    ("origin", "files", "train"),
]
_COMMANDS = (
    *(
        "download",
        "prepare",
        "configure",
        "train",
        "halve",
        "export",
        "evaluate",
        "generate",
        "classify",
        "transcribe",
        "report",
    ),
    *("config", "check", "dvc", "push-to-hub", "provenance", "verify", "list", "new"),
)
_OPTIONS = (
    *(
        "--rung",
        "--time-limit",
        "--fresh",
        "--wait",
        "--step",
        "--to-dcp",
        "--kept",
        "--export",
        "--stream",
        "--json",
        "--srt",
    ),
    *(
        "--output",
        "--table",
        "--licence",
        "--yes",
        "--like",
        "--dataset",
        "--help",
        "--version",
        "--prompt",
        "--seed",
        "--top_p",
    ),
)


@st.composite
def _changed(draw: Any, plain: dict, keys: list, values: Any) -> str:
    """Draw the text of a file: a good one with a few keys changed, or something that is no such file at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.sampled_from(ODD_YAML), st.text(max_size=60), _values.map(_dump)))
    changed = yaml.safe_load(yaml.safe_dump(plain))
    for _ in range(draw(st.integers(1, 3))):
        *sections, last = draw(st.one_of(st.sampled_from(keys), st.lists(_texts, min_size=1, max_size=2).map(tuple)))
        place = changed
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        if draw(st.integers(0, 5)) == 0:
            place.pop(last, None)
        else:
            place[last] = draw(values)
    return _dump(changed)


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, allow_unicode=True, default_flow_style=None)


class Project:
    """A project with one experiment, `plain`, one dataset, `own`, and what is watched while a command runs in it.

    Attributes:
        outcomes: how many cases of each kind were taken, and how many refused.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.outcomes = root.resolve(), Counter()
        for folder in ("experiments", "datasets", "models"):
            (root / "config" / folder).mkdir(parents=True)
        (root / "config" / "config.yaml").write_text("experiments: [plain]\n")
        (root / "config" / "models" / "own.json").write_text('{"model_type": "lt25_hgrn", "hidden_size": 16}\n')
        make.image_folder(root / "images", 12)
        self.dataset = {
            "title": "Own",
            "licence": "none",
            "tasks": ["classification"],
            "origin": {"path": "images"},
            "columns": make.ROLES["classification"],
            "splits": make.HELD_OUT,
        }
        self.experiment = {
            "task": "classification",
            "dataset": "own",
            "model": tiny.MODEL,
            "training": {"steps": 6, "local_batch_size": 4, "mixed_precision_param": "float32"},
            "lr_scheduler": {"warmup_steps": 2},
        }
        self.write("datasets/own", _dump(self.dataset))
        self.write("experiments/plain", _dump(self.experiment))
        self.write("experiments/rates", _dump({**self.experiment, "optimizer": {"lr": [1e-3, 3e-3]}}))

    def write(self, name: str, text: str) -> None:
        """Write a file of ``config/``."""
        (self.root / "config" / f"{name}.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))

    def run(self, kind: str, *arguments: str) -> None:
        """Run a command, and see that it answers.

        Raises:
            AssertionError: if it does not, or does what it should not.
        """
        self.answers(kind, lambda: cli.main(list(arguments)), shlex.join(arguments))

    def answers(self, kind: str, command: Callable[[], int], said: str) -> None:
        """See that a command answers, as `run`; ``said`` is it for a message."""
        out, err = io.StringIO(), io.StringIO()
        with watched(self.root) as forbidden, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = command()
            except SystemExit as ended:
                status = ended.code
        assert not forbidden, f"{said}: {forbidden}"
        assert status in (0, 2) or (status == 1 and said.startswith("verify")), f"{said}: status {status}"
        assert "Traceback" not in out.getvalue() + err.getvalue(), said
        if status == 2 and err.getvalue():
            last = err.getvalue().splitlines()[-1]
            assert last.startswith("lt25: error: "), f"{said}: {err.getvalue()}"
        self.outcomes[kind, "refused" if status else "taken"] += 1


_watching: list[tuple[Path, list[str]]] = []

_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")
_CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)


def _audit(event: str, arguments: tuple) -> None:
    if not _watching:
        return
    root, forbidden = _watching[-1]
    if event in _PROCESSES:
        forbidden.append(f"{event} {arguments[:2]}")
        raise RuntimeError(f"{event}: no process is to be started")
    if event == "open":
        path, mode, flags = arguments
        written = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
        paths = [path] if written else []
    else:
        paths = arguments[:2] if event in _CHANGES else []
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            place = Path(os.path.realpath(os.fsdecode(path)))
            if not place.is_relative_to(root) and not place.is_relative_to("/dev"):
                forbidden.append(f"{event} {place}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[list[str]]:
    """Note what is written outside a folder, and refuse to start processes; yields the list of what was found."""
    forbidden: list[str] = []
    _watching.append((root, forbidden))
    try:
        yield forbidden
    finally:
        _watching.pop()


def cases(project: Project) -> dict[str, tuple[Any, Callable[[Any], None]]]:
    """Return for each kind of input how it is drawn, and what is done with it."""
    root, prepared = project.root, root_with_data(project.root / "prepared")
    name = st.sampled_from(("plain", "rates", "own", "digits", *HOSTILE))
    words = st.lists(
        st.one_of(
            name,
            _texts,
            st.sampled_from(_OPTIONS),
            st.tuples(st.sampled_from(_EXPERIMENT_KEYS), _texts).map(lambda one: f"--{'.'.join(one[0])}={one[1]}"),
            st.tuples(st.sampled_from(_EXPERIMENT_KEYS), _values).map(lambda one: f"--{'.'.join(one[0])}={one[1]}"),
            st.sampled_from(HOSTILE).map(lambda word: f"rates@optimizer.lr={word}"),
        ),
        max_size=4,
    )

    def experiment(text: str) -> None:
        project.write("experiments/case", text)
        for command in (("check", "case"), ("config", "case"), ("new", "next", "--like", "case", "--dataset", "own")):
            project.run(KINDS[0], *command)
        (root / "config" / "experiments" / "next.yaml").unlink(missing_ok=True)
        (root / "config" / "config.yaml").write_text("experiments: [case]\n")
        (root / "dvc.yaml").unlink(missing_ok=True)
        project.run(KINDS[0], "dvc")
        (root / "config" / "config.yaml").write_text("experiments: [plain]\n")
        _no_word_for_a_shell(root / "dvc.yaml")

    def dataset(text: str) -> None:
        if re.search(r"path: *['\"]?[/~.]", text):
            return  # All of a disk would be looked through.
        project.write("datasets/case", text)
        project.write("experiments/case", _dump({**project.experiment, "dataset": "case"}))
        for command in (("check", "case"), ("config", "case"), ("new", "next", "--like", "plain", "--dataset", "case")):
            project.run(KINDS[1], *command)
        (root / "config" / "experiments" / "next.yaml").unlink(missing_ok=True)

    def sweep(text: str) -> None:
        project.write("experiments/case", text)
        for command in ("check", "config"):
            project.run(KINDS[2], command, "case")

    def job(change: tuple) -> None:
        file, good = prepared / "results" / "plain" / "job.toml", prepared / "job.toml"
        place, value, is_text = change
        if is_text:
            at = value % (len(good.read_text()) + 1)
            text = good.read_text()[:at] + place + good.read_text()[at + len(place) // 2 :]
        else:
            sections = tomllib.loads(good.read_text())
            section, key = place
            sections[section] = {**sections[section], key: value}
            text = tomli_w.dumps(sections)
        file.write_bytes(text.encode("utf-8", "surrogatepass"))

        def command() -> int:
            with contextlib.chdir(prepared):
                try:
                    settle(file.relative_to(prepared), Launch(1), False, False)
                except UserError as error:
                    print(f"lt25: error: {error}", file=sys.stderr)
                    return 2
            return 0

        project.answers(KINDS[3], command, f"a job with {change}")

    def line(words: list[str]) -> None:
        project.run(KINDS[4], *words)

    toml = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), _texts, st.lists(_texts, max_size=2))
    sections = tomllib.loads((prepared / "job.toml").read_text())
    keys = [(section, key) for section, values in sections.items() for key in values if key != "digest"]
    keys += [(section, key) for section in JOB for key in JOB[section] if section in sections]
    return {
        KINDS[0]: (_changed(project.experiment, _EXPERIMENT_KEYS, _values), experiment),
        KINDS[1]: (_changed(project.dataset, _DATASET_KEYS, _values), dataset),
        KINDS[2]: (_changed(project.experiment, _EXPERIMENT_KEYS, st.lists(_values, max_size=4)), sweep),
        KINDS[3]: (
            st.one_of(
                st.tuples(st.sampled_from(keys), toml, st.just(False)),
                st.tuples(_texts, st.integers(0, 10_000), st.just(True)),
            ),
            job,
        ),
        KINDS[4]: (
            st.tuples(st.one_of(st.sampled_from(_COMMANDS), _texts), words).map(lambda one: [one[0], *one[1]]),
            line,
        ),
    }


def root_with_data(root: Path) -> Path:
    """Make a project whose experiment is prepared and has a job file, with a copy of that at its head."""
    tiny.make_project(root)
    with contextlib.chdir(root):
        experiment = tiny.tiny(root, "classification", "plain")
        (root / "job.toml").write_text((experiment.results_dir / "job.toml").read_text())
    return root


def _no_word_for_a_shell(stages: Path) -> None:
    """See that DVC's commands say the same to a shell as word by word."""
    if stages.is_file():
        for stage in yaml.safe_load(stages.read_text())["stages"].values():
            command = stage["cmd"].split("  # ")[0]
            assert shlex.join(shlex.split(command)) == command, command


def drive(project: Project, number: int, seed_of_all: int) -> None:
    """Try so many cases of each kind; the first that fails is made as small as it can be, and raised.

    Raises:
        AssertionError: as `Project.run`.
    """
    for kind, (strategy, case) in cases(project).items():

        @seed(seed_of_all)
        @settings(
            max_examples=number,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        @given(strategy)
        def attempt(drawn: Any) -> None:
            case(drawn)  # noqa: B023 - it is called before the next one

        attempt()
        print(f"{kind}: {number} cases", file=sys.stderr, flush=True)


def share(number: int, seed_of_all: int) -> Counter:
    """Try so many cases of each kind in a project of their own; return the outcomes."""
    os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        project = Project(Path(folder))
        drive(project, number, seed_of_all)
    return project.outcomes


def table(outcomes: Counter, number: int, seed_of_all: int) -> str:
    """Return in Markdown how many cases of each kind there were, and what the commands answered."""
    rows = [
        f"| {kind} | {number:,} | {outcomes[kind, 'taken']:,} | {outcomes[kind, 'refused']:,} |\n" for kind in KINDS
    ]
    head = "| input | cases | commands that took it | that refused it in one line |\n| --- | --- | --- | --- |\n"
    return f"{head}{''.join(rows)}\n{number * len(KINDS):,} cases, seed {seed_of_all}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="cases, of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a seed of its own")
    parser.add_argument("--table", type=Path, metavar="FILE", help="a Markdown file that the table is written into")
    options = parser.parse_args()
    each = -(-options.number // (len(KINDS) * options.jobs))
    with ProcessPoolExecutor(options.jobs) as pool:
        done = pool.map(share, [each] * options.jobs, range(options.seed, options.seed + options.jobs))
        outcomes = sum(done, Counter())
    print(told := table(outcomes, each * options.jobs, options.seed))
    if options.table:
        replace(options.table, MARK, told)


if __name__ == "__main__":
    main()

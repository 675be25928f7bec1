"""Files of a dataset or model on the Hugging Face Hub, or in a local mirror laid out like it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from lt25.data.folders import listed
from lt25.data.remote import HUB
from lt25.errors import UserError
from lt25.files import whole_file
from lt25.progress import say, track

MIRROR = "mirror"
"""What stands for the revision of files that came from a mirror, which does not say which one it holds."""


def patterns(origin: dict[str, Any]) -> list[str]:
    """Return the glob patterns of the files wanted, relative to the repository: all, where ``origin`` names none."""
    wanted = origin.get("files", {"all": "**/*"}).values()
    return [pattern for some in wanted for pattern in listed(some)]


def _on_hubs_terms(origin: dict[str, Any]) -> list[str]:
    """Return patterns of the Hub's client that match no less: its "*" is any text, and so its "**/" one folder at least."""
    return [pattern.replace("**/", "*") for pattern in patterns(origin)]


def fetch(
    name: str,
    origin: dict[str, Any],
    folder: Path,
    mirror: Path | None,
    only: list[str] | None,
    kind: str = "dataset",
) -> str:
    """Bring the files of ``origin["hub"]`` into ``folder`` and return their revision.

    ``mirror`` is looked into first. ``only`` names the files wanted, relative to ``folder``; None means all that the
    origin's patterns match. ``kind`` is "dataset" or "model". Without a pinned ``origin["revision"]`` the Hub's newest commit is
    resolved once and returned.

    Raises:
        UserError: if neither the mirror nor the Hub can give the files.
    """
    copied = mirror / origin["hub"] if mirror else None
    if copied and copied.is_dir():
        return _from_mirror(f"{kind} {name}", origin, folder, copied, only)
    return _from_hub(name, origin, folder, mirror, only, kind)


def listing(name: str, origin: dict[str, Any], mirror: Path | None) -> tuple[str, str, dict[str, int]]:
    """Find the files of ``origin["hub"]`` where they are, and bring none.

    Returns:
        The folder in the mirror, or ``hf://datasets/<owner>/<name>@<commit>``; the revision; the files, with their bytes.

    Raises:
        UserError: as `fetch`.
    """
    copied = mirror / origin["hub"] if mirror else None
    if copied and copied.is_dir():
        found = sorted({path for pattern in patterns(origin) for path in copied.glob(pattern) if path.is_file()})
        sizes = {path.relative_to(copied).as_posix(): path.stat().st_size for path in found}
        return str(copied.absolute()), MIRROR, sizes
    with _answers("dataset", name, origin, mirror):
        revision, sizes = _on_hub(origin, _on_hubs_terms(origin))
    return f"{HUB}datasets/{origin['hub']}@{revision}", revision, sizes


def _on_hub(origin: dict[str, Any], wanted: list[str], kind: str = "dataset") -> tuple[str, dict[str, int]]:
    """Return the commit that a dataset or model is at on the Hub, and the bytes of the files wanted."""
    from huggingface_hub import HfApi

    info = cast(
        Any, HfApi().repo_info(origin["hub"], repo_type=kind, revision=origin.get("revision"), files_metadata=True)
    )
    there = [file for file in info.siblings if any(fnmatch(file.rfilename, pattern) for pattern in wanted)]
    return info.sha, {file.rfilename: file.size or 0 for file in there}


def _from_mirror(named: str, origin: dict[str, Any], folder: Path, copied: Path, only: list[str] | None) -> str:
    found = {path for pattern in patterns(origin) for path in copied.glob(pattern) if path.is_file()}
    if only is not None:
        found = {path for path in found if path.relative_to(copied).as_posix() in only}
    if not found:
        wanted = ", ".join(only or patterns(origin))
        raise UserError(f"{named}: no file of the mirror's {copied} matches {wanted}: complete the mirror")
    _need_space(named, folder, sum(path.stat().st_size for path in found))
    say(f"{named}: copying {len(found)} files from the mirror's {origin['hub']}")
    for path in track(sorted(found), f"{named}: files copied", len(found)):
        target = folder / path.relative_to(copied)
        with whole_file(target) as partial:
            shutil.copyfile(path, partial)
    return MIRROR


def _from_hub(
    name: str, origin: dict[str, Any], folder: Path, mirror: Path | None, only: list[str] | None, kind: str
) -> str:
    wanted = only or _on_hubs_terms(origin)
    with _answers(kind, name, origin, mirror):
        from huggingface_hub import snapshot_download

        revision, sizes = _on_hub(origin, wanted, kind)
        _need_space(f"{kind} {name}", folder, sum(sizes.values()))
        say(f"{name}: downloading {len(sizes)} files of {origin['hub']} at {revision[:12]} from the Hub")
        snapshot_download(origin["hub"], repo_type=kind, revision=revision, allow_patterns=wanted, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes; SOURCE.json says more
    return revision


@contextmanager
def _answers(kind: str, name: str, origin: dict[str, Any], mirror: Path | None) -> Iterator[None]:
    """Say in one line what the Hub refuses.

    Raises:
        UserError: in place of the client's errors.
    """
    import httpx
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    hub = origin["hub"]
    place = f"{kind} {name}: {hub} is not in the mirror {mirror} and" if mirror else f"{kind} {name}: {hub}:"
    instead = "name a folder that has it in LT25_HUB_MIRROR or as hub_mirror in config/config.yaml"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{place} the Hub gives it to those with permission only: log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at revision {origin['revision']}" if "revision" in origin else ""
        raise UserError(
            f"{place} the Hub has no such {kind}{at}: mend {'origin' if kind == 'dataset' else 'the name'}, or {instead}"
        ) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{place} the Hub cannot be reached ({reason}): connect to the network, or {instead}") from None


def _need_space(named: str, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        needs = f"needs {wanted / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free"
        raise UserError(f"{named}: {needs}: make room there")

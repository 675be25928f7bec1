"""Files of a dataset on the Hugging Face Hub, or in a local mirror laid out like it."""

from pathlib import Path
from typing import Any

from lt25.data import files
from lt25.data.progress import say, track
from lt25.errors import UserError

MIRROR = "mirror"
"""What stands for the revision of files that came from a mirror, which does not say which one it holds."""


def patterns(origin: dict[str, Any]) -> list[str]:
    """Return the glob patterns of the files wanted, relative to the repository: all, where ``origin`` names none."""
    wanted = origin.get("files", {"all": "**/*"}).values()
    return [pattern for some in wanted for pattern in ([some] if isinstance(some, str) else some)]


def fetch(name: str, origin: dict[str, Any], folder: Path, mirror: Path | None, only: list[str] | None) -> str:
    """Bring the files of ``origin["hub"]`` into ``folder`` and return their revision.

    ``mirror`` is looked into first. ``only`` names the files wanted, relative to ``folder``; None means all that the
    origin's patterns match. Without a pinned ``origin["revision"]`` the Hub's newest commit is resolved once and returned.

    Raises:
        UserError: if neither the mirror nor the Hub can give the files.
    """
    copied = mirror / origin["hub"] if mirror else None
    if copied and copied.is_dir():
        return _from_mirror(name, origin, folder, copied, only)
    return _from_hub(name, origin, folder, mirror, only)


def _from_mirror(name: str, origin: dict[str, Any], folder: Path, copied: Path, only: list[str] | None) -> str:
    found = {path for pattern in patterns(origin) for path in copied.glob(pattern) if path.is_file()}
    if only is not None:
        found = {path for path in found if path.relative_to(copied).as_posix() in only}
    if not found:
        raise UserError(
            f"dataset {name}: no file of the mirror's {copied} matches {', '.join(only or patterns(origin))}"
        )
    files.need_space(folder, sum(path.stat().st_size for path in found), f"dataset {name}")
    say(f"{name}: copying {len(found)} files from the mirror's {origin['hub']}")
    for path in track(sorted(found), f"{name}: files copied", len(found)):
        files.copy(path, folder / path.relative_to(copied))
    return MIRROR


def _from_hub(name: str, origin: dict[str, Any], folder: Path, mirror: Path | None, only: list[str] | None) -> str:
    import shutil

    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    hub = origin["hub"]
    missing = f"dataset {name}: {hub} is not in the mirror {mirror} and" if mirror else f"dataset {name}: {hub}:"
    mend = (
        "connect to the network, or name a folder that has it in LT25_HUB_MIRROR or as hub_mirror in config/config.yaml"
    )
    try:
        revision = HfApi().dataset_info(hub, revision=origin.get("revision")).sha
        say(f"{name}: downloading {hub} at {revision[:12]} from the Hub")
        snapshot_download(
            hub, repo_type="dataset", revision=revision, allow_patterns=only or patterns(origin), local_dir=folder
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        at = f" at revision {origin['revision']}" if "revision" in origin else ""
        raise UserError(f"{missing} the Hub has no such dataset{at}: mend origin.hub, or {mend}") from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{missing} the Hub cannot be reached ({reason}): {mend}") from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return revision

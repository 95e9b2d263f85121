"""Where the shipped rules, vocabularies and schemas lie (wheel or checkout), and how files of users are read."""

from pathlib import Path

from migrate.model import Refused

MAX_BYTES = 16 * 1024 * 1024


def read_text(path: Path, todo: str, encoding: str = "utf-8") -> str:
    """The text of a file that a user gives, its line ends as they are. Refused with what to do where it cannot be
    read, is no UTF-8 or is larger than 16 MB."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; {todo}") from None
    if len(data) > MAX_BYTES:
        raise Refused(f"{path}: larger than 16 MB; {todo}")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Refused(f"{path}: not UTF-8 text; {todo}") from None


def data_path(*parts: str) -> Path:
    """The path of a shipped data file or folder, such as `data_path("mappings", "disk.yaml")`."""
    installed = Path(__file__).parent / "data"
    return (installed if installed.is_dir() else Path(__file__).parent.parent).joinpath(*parts)

"""Where the rules, vocabularies and report schemas lie: in the wheel, or in the checkout it is run from."""

from pathlib import Path


def data_path(*parts: str) -> Path:
    """The path of a shipped data file or folder, such as `data_path("mappings", "disk.yaml")`."""
    installed = Path(__file__).parent / "data"
    return (installed if installed.is_dir() else Path(__file__).parent.parent).joinpath(*parts)

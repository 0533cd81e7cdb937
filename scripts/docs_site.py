"""A hook of mkdocs: files above docs/ that pages link to are part of the site, so every link is checked; the API is, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "project.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SOURCE = "source"  # folder of the site with other files, as they are
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)|(?<=src=\")(?!\w+:)([^\"]+)")
API = ["isoalign", "isoalign.stats"]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages above docs/, what is linked to, and the API."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "api.md", content="# API\n\n" + "".join(f"::: {name}\n\n" for name in API)))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for link in re.finditer(LINK, _prose(page.content_string)):
            linked = _name(page.src_uri, link[0])
            if linked and linked not in PAGES and not linked.startswith("docs/") and (ROOT / linked).is_file():
                uri = f"{SOURCE}/{_flat(linked)}"
                if files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, content=(ROOT / linked).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files above docs/ lead to their place in the site."""
    parts = re.split(r"(^ *```.*?^ *```)", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [LINK.sub(lambda link: _place(page.file.src_uri, link[0]), part) for part in parts[::2]]
    return "".join(parts)


def _place(page: str, link: str) -> str:
    """Where a link leads in the site."""
    if (name := _name(page, link)) is None:
        return link
    if name in PAGES or (ROOT / name).is_dir():  # of folders the index tells
        return PAGES.get(name, "index.md")
    return name.removeprefix("docs/") if name.startswith("docs/") else f"{SOURCE}/{_flat(name)}"


def _name(page: str, link: str) -> str | None:
    """The path of a linked file in the repository; None for what lies in docs/ anyway."""
    folder = ROOT if page in PAGES.values() else ROOT / "docs"
    path = (folder / link).resolve()
    inside = path.is_relative_to(ROOT) and (folder == ROOT or not path.is_relative_to(ROOT / "docs"))
    return path.relative_to(ROOT).as_posix() if inside else None


def _flat(name: str) -> str:
    """Markdown of other folders is shown as it is: its own links are not pages of the site."""
    return f"{name}.txt" if name.endswith(".md") else name


def _prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)

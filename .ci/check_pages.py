"""Look for what built pages load from another host; a link that a reader may follow is no such."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

# Attributes whose address a browser loads by itself.
LOADED = {"src", "srcset", "data", "poster", "action", "background"}
ELSEWHERE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class Page(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the tag's attributes."""
        for name, value in attrs:
            if name in LOADED or (name == "href" and tag == "link"):
                if ELSEWHERE.match(value or ""):
                    self.found.append(f"<{tag} {name}={value!r}>")
            elif name == "style":
                self.found += IN_STYLE.findall(value or "")


def loaded_from_elsewhere(folder: Path) -> list[str]:
    """What the pages and style sheets in this folder load from another host."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".html":
            page = Page()
            page.feed(path.read_text())
            found += [f"{path.name}: {each}" for each in page.found]
        elif path.suffix == ".css":
            found += [f"{path.name}: {each}" for each in IN_STYLE.findall(path.read_text())]
    return found


def main(folder: str) -> int:
    """Print what was found; the exit status is 1 if there is anything."""
    pages = list(Path(folder).rglob("*.html"))
    found = loaded_from_elsewhere(Path(folder))
    for each in found:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"{len(pages)} pages, {len(found)} of their parts loaded from elsewhere\n")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The blocks of a page of documentation, and the claims in its text."""

import re
from dataclasses import dataclass
from pathlib import Path

import trio_jobs

# With `-p no:cacheprovider` and the like the tests may run from anywhere.
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = Path(trio_jobs.__file__).parent
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"

_FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<kind>[^\n`]*)\n(?P<text>.*?)^(?P=fence)\n", re.MULTILINE | re.DOTALL
)
_SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
_NAME = re.compile(r"(?:#|//|--) (\S+)\n")
_TEST = re.compile(r"`((?:[\w/]+/)?\w+\.py)(?:::(\w+))?`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        kind: What is written behind the fence.
        text: What is in it.
        line: Where it begins in its page.
        section: The heading of the second level that it stands under.
        name: The file that it is, if its first line says so in a comment.
    """

    kind: str
    text: str
    line: int
    section: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a console block.

    Attributes:
        text: The command, or ``^C``.
        output: What the page says that it writes.
    """

    text: str
    output: str


def blocks_of(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        name = _NAME.match(match["text"])
        sections = _SECTION.findall(text, 0, match.start())
        found.append(
            Block(
                kind=match["kind"].strip(),
                text=match["text"],
                line=text.count("\n", 0, match.start()) + 1,
                section=sections[-1] if sections else "",
                name=name[1] if name else None,
            )
        )
    return found


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block."""
    commands: list[tuple[str, list[str]]] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line == "^C":
            commands.append((line, []))
        elif line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            commands.append((command, []))
        else:
            commands[-1][1].append(line)
    return [Command(text=text, output="\n".join(output).strip()) for text, output in commands]


def named_tests(page: Path) -> set[tuple[str, str | None]]:
    """The tests that the page names: the file, and the function if it says which."""
    return {(match[1], match[2]) for match in _TEST.finditer(page.read_text())}

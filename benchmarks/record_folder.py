"""Record the folder walkthrough in a terminal: python benchmarks/record_folder.py (needs `pip install pyte`).

The commands run in a pseudo-terminal on a copy of parts of this repository. Its final screen is written to
docs/assets/folder.svg.
"""

import io
import os
import pty
import re
import shutil
import tempfile
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS, LINES = 116, 100
COMMANDS = """
ls handbook
qwen3-rag sync handbook --store shelf --embedder demo --reranker demo
echo 'Changed on a Monday: the commit is renamed.' >> handbook/notes.txt; mv handbook/README.md handbook/start.md
qwen3-rag sync handbook --store shelf
qwen3-rag search shelf "how are moved files found?" -k 3 --candidates 30 --mode hybrid --explain
qwen3-rag search shelf "renamed on a Monday" -k 1 --mode lexical --no-rerank --json | jq '.source, .start'
qwen3-rag list shelf --limit 4
"""
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
NAMED = {"brown": "yellow"}  # what pyte calls otherwise than rich


def main() -> None:
    """Run the commands and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        handbook = Path(folder, "handbook")
        shutil.copytree(
            HERE.parent / "pipeline/qwen3_rag/ingest", handbook / "ingest", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in ("README.md", "ARCHITECTURE.md"):
            shutil.copy(HERE.parent / name, handbook)
        (handbook / "notes.txt").write_text("Notes\n=====\n\nTo be sorted.\n")
        screen = recorded(Path(folder))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in shown(screen):
        console.print(line, no_wrap=True, overflow="crop")
    svg = console.export_svg(title="qwen3-rag", theme=DIMMED_MONOKAI, unique_id="folder")
    # Fonts come from the machine that shows the picture, not from a network.
    (HERE.parent / "docs/assets/folder.svg").write_text(
        "\n".join(line.rstrip() for line in FONT.sub("", svg).splitlines()) + "\n"
    )


def recorded(folder: Path) -> pyte.Screen:
    """The screen after all commands."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    for command in COMMANDS.strip().splitlines():
        stream.feed(f"\x1b[1;32m$\x1b[0m {command}\r\n".encode())
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(folder)
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
            os.execvp("sh", ["sh", "-c", command])
        while part := read(terminal):
            stream.feed(part)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit(f"failed: {command}\n" + "\n".join(screen.display))
        stream.feed(b"\r\n")
    return screen


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing at its end, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def shown(screen: pyte.Screen) -> list[Text]:
    """Lines of a screen in their colours, without the empty ones at its end."""
    lines = []
    for row in range(screen.cursor.y):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            colour = NAMED.get(cell.fg, cell.fg)
            if re.fullmatch("[0-9a-f]{6}", colour):
                colour = f"#{colour}"
            elif colour.startswith("bright"):
                colour = f"bright_{NAMED.get(colour[6:], colour[6:])}"
            line.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics, underline=cell.underscore))
        line.rstrip()
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Records a terminal session as an animated SVG: the commands below, run in a shell on the sample image.

usage: scripts/record.py DIR > docs/recording.svg
where DIR has the program, and sample_image in DIR/examples. Needs /dev/fuse.

Commands and their output are real. The rhythm is not: it is computed from the text, so that the same output
gives the same file on every machine. Viewers without animation show the end of the session.
"""

import os
import pty
import subprocess
import sys
import tempfile
from html import escape

COMMANDS = [
    "ls",
    "imgmount sample.tar mnt",
    "ls mnt",
    "cat mnt/etc/passwd",
    "ls mnt/etc/motd",
    "imgmount history sample.tar:/etc/motd",
    "imgmount umount mnt",
]
COLUMNS = 68
# Printed before each prompt; no command prints it.
MARK = "\x1e"
PROMPT = "$ "

# Of the animation, in seconds.
PAUSE, PER_KEY, BEFORE_OUTPUT = 0.7, 0.045, 0.25
# Of the picture, in pixels.
FONT, CHARACTER, LINE, BORDER, TITLE = 14, 8.43, 21, 20, 34

STYLE = """
.back { fill: #f6f8fa; stroke: #d1d9e0 } .dot { fill: #d1d9e0 } .title { fill: #59636e }
text { fill: #1f2328; font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre }
.prompt { fill: #1a7f37 } .command { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  .back { fill: #0d1117; stroke: #3d444d } .dot { fill: #3d444d } .title { fill: #9198a1 }
  text { fill: #e6edf3 } .prompt { fill: #3fb950 }
}
@media (prefers-reduced-motion: no-preference) {
  .shown { animation: show 1ms both } .command { animation: type 1s both }
}
@keyframes show { from { opacity: 0 } }
@keyframes type { from { clip-path: inset(0 100%% 0 0) } to { clip-path: inset(0 0 0 0) } }
""" % FONT


def record(built):
    """Runs the commands in a shell on a terminal; returns the output of each, as lines."""
    with tempfile.TemporaryDirectory(prefix="imgmount-record.") as work:
        subprocess.run([f"{built}/examples/sample_image", work], check=True)
        os.remove(f"{work}/large.expected")
        os.mkdir(f"{work}/mnt")
        environment = {
            "PATH": f"{built}:{os.environ['PATH']}",
            "IMGMOUNT_CACHE_DIR": f"{work}/.cache",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "COLUMNS": str(COLUMNS),
            "PS1": MARK,
            "PS2": "",
        }
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(work)
            shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
            os.execvpe("bash", shell, environment)
        try:
            read_to_mark(terminal)
            outputs = []
            for command in COMMANDS:
                os.write(terminal, f"{command}\n".encode())
                echoed, *output = read_to_mark(terminal)
                assert echoed == command, f"the terminal shows {echoed!r} for {command!r}"
                outputs.append(output)
            os.write(terminal, b"exit\n")
        finally:
            os.waitpid(pid, 0)
            subprocess.run(["umount", "-lq", f"{work}/mnt"], stderr=subprocess.DEVNULL)
    return outputs


def read_to_mark(terminal):
    """Reads what is shown until the next prompt, as lines."""
    shown = ""
    while not shown.endswith(MARK):
        piece = os.read(terminal, 4096).decode()
        assert piece, f"the shell ended after {shown!r}"
        shown += piece
    return shown.removesuffix(MARK).expandtabs().splitlines()


def text(style, column, row, content, delay, duration=""):
    x, y = BORDER + column * CHARACTER, TITLE + BORDER + row * LINE
    width = len(content) * CHARACTER
    return (
        f'<text class="{style}" x="{x:.2f}" y="{y}" textLength="{width:.2f}" lengthAdjust="spacingAndGlyphs"'
        f' style="animation-delay: {delay:.2f}s{duration}">{escape(content)}</text>'
    )


def draw(outputs):
    """Returns the picture of a session."""
    shapes, row, clock = [], 0, PAUSE
    for command, output in zip(COMMANDS, outputs):
        shapes.append(text("shown prompt", 0, row, PROMPT.strip(), clock - PAUSE))
        typing = len(command) * PER_KEY
        keys = f"; animation-duration: {typing:.2f}s; animation-timing-function: steps({len(command)})"
        shapes.append(text("command", len(PROMPT), row, command, clock, keys))
        clock += typing + BEFORE_OUTPUT
        for line in output:
            row += 1
            assert len(line) <= COLUMNS, f"{line!r} is too long for the picture"
            shapes.append(text("shown", 0, row, line, clock))
        row += 1
        clock += PAUSE + 0.3 * len(output)
    shapes.append(text("shown prompt", 0, row, PROMPT.strip(), clock - PAUSE))
    width, height = round(COLUMNS * CHARACTER + 2 * BORDER), TITLE + 2 * BORDER + row * LINE
    dots = "".join(f'<circle class="dot" cx="{x}" cy="18" r="6"/>' for x in (22, 42, 62))
    title = f'<text class="title" x="{width // 2}" y="23" text-anchor="middle">imgmount</text>'
    return "\n".join([
        "<!-- Made by `make recording` from a real session. -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' xml:space="preserve" role="img" aria-label="A terminal: an image is mounted, looked at and unmounted">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>{dots}{title}',
        *shapes,
        "</svg>",
    ])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(draw(record(os.path.realpath(sys.argv[1]))))


if __name__ == "__main__":
    main()

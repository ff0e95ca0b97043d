#!/usr/bin/env python3
"""Prints the licence texts of all crates that are linked into imgmount, for packages.

usage: scripts/licences.py TARGET      for musl targets
A text that several crates share stands there once, below their names. Fails if a crate has no text.
"""

import glob
import json
import os
import subprocess
import sys

# The crates' own files, and those of the C libraries that they contain. xz and zstd offer the GPL as well; it is not
# what they are used under.
PATTERNS = ["LICEN[CS]E*", "NOTICE*", "UNLICENSE*", "COPYING", "*/LICEN[CS]E", "*/COPYING.0BSD"]


# Linked as well, and no crates.
RUNTIME = {
    "the Rust standard library (MIT OR Apache-2.0)": "Copyright (c) The Rust Project contributors",
    "musl libc (MIT)": "Copyright (c) 2005-2020 Rich Felker, et al.",
}


def linked_packages(metadata):
    """Returns the packages that the program depends on, without those for its build and its tests."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    linked, todo = set(), [root]
    while todo:
        node = nodes[todo.pop()]
        linked.add(node["id"])
        for dependency in node["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in linked:
                todo.append(dependency["pkg"])
    return sorted((packages[id] for id in linked - {root}), key=lambda package: package["id"])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", sys.argv[1]]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    with open(os.path.join(os.path.dirname(__file__), "../LICENSE-MIT"), encoding="utf-8") as text:
        mit = text.read().strip()
    users = {f"{copyright_line}\n\n{mit}": [name] for name, copyright_line in RUNTIME.items()}
    for package in linked_packages(metadata):
        directory = os.path.dirname(package["manifest_path"])
        files = sorted(file for pattern in PATTERNS for file in glob.glob(f"{directory}/{pattern}"))
        if not files:
            sys.exit(f"licences: {package['name']} has no licence text")
        for file in files:
            with open(file, encoding="utf-8") as text:
                of_text = users.setdefault(text.read().strip(), [])
            name = f"{package['name']} {package['version']} ({package['license']})"
            if name not in of_text:
                of_text.append(name)
    print("imgmount contains the following software.")
    for text, names in users.items():
        print(f"\n{'=' * 78}\n{chr(10).join(names)}\n{'-' * 78}\n{text}")


if __name__ == "__main__":
    main()

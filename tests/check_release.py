"""What `make release` refuses before it builds: exit 1 with each reason and its remedy.

Without a tag it is a rehearsal: what only a tagged release must have is said and allowed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "perceptual_ops/__init__.py"


def written(root: Path, file: str, pattern: str) -> str:
    """What the pattern's group matches first in a file, empty where nothing does."""
    found = re.search(pattern, (root / file).read_text("utf-8"), re.MULTILINE)
    return found[1] if found else ""


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def refusals(root: Path, tag: str) -> list[str]:
    """Why nothing is built; `tag` is the one that the release is made for, empty for a rehearsal."""
    version = written(root, VERSION, r'^__version__ = "(.+)"')
    found = []
    if changed := git(root, "status", "--porcelain"):
        found.append(f"the tree has changes, commit or remove them:\n{changed}")
    if not written(root, "CHANGELOG.md", rf"^## ({re.escape(version)})(?: |$)"):
        found.append(f"CHANGELOG.md has no heading '## {version}': write what changed")
    if tag and tag != f"v{version}":
        found.append(f"the tag {tag} is not v{version}: correct the tag, or the version in {VERSION}")
    commit = git(root, "rev-parse", "--verify", "-q", f"refs/tags/v{version}^{{commit}}")
    if commit and not (tag and commit == git(root, "rev-parse", "HEAD")):
        found.append(f"v{version} is released, its tag is at {commit[:12]}: raise the version in {VERSION}")
    return found


def missing_for_a_tag(root: Path, address: str) -> list[str]:
    """What a rehearsal may lack; `address` is that of the repository where the release is made, empty if unknown."""
    found = []
    if unreleased := written(root, "CHANGELOG.md", r"^(## .*unreleased.*)"):
        found.append(f"CHANGELOG.md says '{unreleased}': write the date")
    for page in ("README.md", "docs/installation.md"):
        if before := written(root, page, r"(# once released; until then.*)"):
            found.append(f"{page} says '{before}': remove this remark")
    repository = written(root, "setup.py", r'^REPOSITORY = "(.+?)"')
    if "/OWNER/" in repository or (address and repository != address):
        found.append(f"REPOSITORY in setup.py is {repository}: write the address of the repository {address}".rstrip())
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", default="", help="the tag that the release is made for, as v1.2.3")
    parser.add_argument("--address", default="", help="of the repository: https://host/owner/name")
    options = parser.parse_args(arguments)
    refused, missing = refusals(ROOT, options.tag), missing_for_a_tag(ROOT, options.address)
    for reason in missing:
        print(f"release: {'' if options.tag else 'before the tag, '}{reason}", file=sys.stderr)
    for reason in refused:
        print(f"release: {reason}", file=sys.stderr)
    return int(bool(refused or (options.tag and missing)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

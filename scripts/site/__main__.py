"""Build the documentation site in a folder and check it: `python -m scripts.site [FOLDER]`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.site import texts
from scripts.site.checks import BuiltSite
from scripts.site.markdown import ROOT
from scripts.site.staging import stage


def build(folder: Path) -> BuiltSite:
    """Delete the folder, build the site in its subfolder `site`, and return the site."""
    shutil.rmtree(folder, ignore_errors=True)
    staged = folder / "docs"
    stage(staged)
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(configuration, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(  # noqa: S603 - a fixed command
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"}
    )
    if built.returncode:
        raise SystemExit(f"{built.stdout}{built.stderr}\nZensical failed; fix the problems above.")
    texts.write(staged, folder / "site", configuration)
    return BuiltSite(folder / "site")


def main(words: Sequence[str] | None = None) -> BuiltSite:
    """Build and check the site, print a summary, and return the site."""
    parser = argparse.ArgumentParser(prog="python -m scripts.site", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "documents")
    site = build(parser.parse_args(words).folder)
    broken, foreign = list(site.broken_links()), list(site.foreign())
    for problem in [*broken, *foreign]:
        print(problem)
    print(
        f"{len(site.pages)} pages, {site.size() / 1e6:.1f} MB in {site.folder}; "
        f"broken links: {len(broken)}, loaded from other hosts: {len(foreign)}"
    )
    if broken or foreign:
        raise SystemExit(1)
    return site


if __name__ == "__main__":
    main()

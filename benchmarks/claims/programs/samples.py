"""The programs for other systems in our migration pages run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt

URL = os.environ["CLAIMS_REDIS"]
# The changes to the programs: the URL of Redis, and no waiting for results or endless loops without a worker.
CHANGES = {
    "rq": [("connection=Redis()", f"connection=Redis.from_url({URL!r})")],
    "dramatiq": [("redis://localhost:6379/0", URL)],
    "huey": [
        ("print(result(blocking=True))", "assert (len(huey.pending()), len(huey.scheduled())) == (2, 0)")
    ],
    "apscheduler": [("scheduler.start()\n", "scheduler.start()\nscheduler.shutdown()\n")],
}

Path("tasks.py").write_text("def send_mail(address, about):\n    return about\n")
for name, changes in CHANGES.items():
    page = Path(os.environ["CLAIMS_DOCS"], f"coming-from-{name}.md").read_text(encoding="utf-8")
    theirs = page.partition("<!-- not run")[2]
    (code, *_) = [one.content for one in MarkdownIt().parse(f"<!--{theirs}") if one.type == "fence"]
    for printed, here in changes:
        assert printed in code, (name, printed)
        code = re.sub(re.escape(printed), lambda _, here=here: here, code)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.DEVNULL)
print(f"{', '.join(CHANGES)}: four programs ran")

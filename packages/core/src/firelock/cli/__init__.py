"""The command line. One module a command group; nothing heavy is loaded before a command needs it.

Read `program` first: it parses, finds the app (`source`) and runs a command. `commands` is what every command
is made of; `screen` and `answers` are the two ways to say what came of it, to people and as JSON; `keyboard`
reads single keys; `called` writes advised commands as the reader called this one. The others are groups of
commands: `jobs`, `queues`, `limits`, `batches`, `recurring`, `servers` and `doctor` as in
`firelock.control`, `job_steps` as a part of `jobs`; `enqueue`, `top`, `dev`, `migrate`, `health`, `about`,
`completion`, and `demo`, whose app is `demo_shop`.
"""

from __future__ import annotations

from firelock.cli.program import main

__all__ = ["main"]

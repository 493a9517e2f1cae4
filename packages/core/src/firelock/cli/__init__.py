"""The command line: one module per command or group of commands.

Large libraries are loaded only when a command needs them. Read `program` first: it parses the arguments,
finds the app (`source`) and runs a command. `commands` contains the parts that all commands share. `screen`
writes the output, and `json_output` converts stored values for `--json`. `keyboard` reads single keys.
`called` writes the commands in messages in the form in which the user called the current command. The other
modules are commands: `jobs`, `queues`, `limits`, `batches`, `recurring`, `servers` and `doctor` correspond to
the modules of the same names in `firelock.control`, and `job_steps` and `job_failures` are parts of `jobs`.
The rest are `enqueue`, `top`, `dev`, `migrate`, `health`, `about`, `completion`, and `demo`, whose app is
`demo_shop`.
"""

from __future__ import annotations

from firelock.cli.program import main

__all__ = ["main"]

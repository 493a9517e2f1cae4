"""The command line: one module per command or group of commands.

Nothing heavy is loaded before a command needs it. Read `program` first: it parses the arguments, finds the
app (`source`) and runs a command. `commands` has the parts that all commands share. `screen` and
`json_output` write the output, for people and as JSON. `keyboard` reads single keys. `called` writes the
commands in messages in the way in which the user called this one. The other modules are commands: `jobs`,
`queues`, `limits`, `batches`, `recurring`, `servers` and `doctor` correspond to those of `firelock.control`,
and `job_steps` is a part of `jobs`. The rest are `enqueue`, `top`, `dev`, `migrate`, `health`, `about`,
`completion`, and `demo`, whose app is `demo_shop`.
"""

from __future__ import annotations

from firelock.cli.program import main

__all__ = ["main"]

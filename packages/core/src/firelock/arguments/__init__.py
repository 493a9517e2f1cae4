"""A task's arguments as stored text, and the text as arguments again.

Read `signature` first: it binds a call, and says what its text is and what is wrong with it. `codec` is one
annotation that is JSON already, `conversion` one that cattrs has to convert (loaded at the first such value).
`refusals` names what no job can carry, `tags` labels a job by its arguments, `forms` asks people for them.
"""

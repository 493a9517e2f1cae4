"""A task's arguments as stored text, and the text as arguments again.

Read `signature` first: it binds a call, and says what its text is and what is wrong with it. `codec` is one
annotation that is JSON already, `conversion` one that cattrs has to convert (loaded at the first such
value). `serializer` writes and reads the stored text. `refusals` names what no job can carry; `references`
are results of other jobs that stand in a call. `templates` makes texts of arguments by their names, `tags`
labels a job by them. For who holds no code of a task: `forms` asks people for its arguments, `outline`
tells programs of them.
"""

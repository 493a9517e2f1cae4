"""The conversion of a task's arguments to stored strings and back.

Read `signature` first: it binds a call, returns its stored string, and reports its problems. `codec` handles
annotations whose values are already JSON. `conversion` handles annotations whose values cattrs must convert;
it is loaded for the first such value. `serializer` writes and reads the stored string. `refusals` lists the
values that cannot be arguments. `references` finds the results of other jobs among the arguments of a call.
`templates` builds strings from arguments by name, and `tags` labels a job with them. For programs without the
task's code, `forms` converts strings that people enter, and `outline` publishes the parameters.
"""

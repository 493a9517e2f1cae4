"""A task's arguments as stored strings, and stored strings as arguments.

Read `signature` first: it binds a call, returns its stored string, and reports what is wrong with it. `codec`
handles an annotation that is JSON already, and `conversion` one that cattrs must convert (loaded for the
first such value). `serializer` writes and reads the stored string. `refusals` names the values that no job
can carry. `references` are results of other jobs among the arguments of a call. `templates` builds strings
from arguments by name, and `tags` labels a job with them. For programs without the task's code, `forms`
requests its arguments from people, and `outline` publishes them to other programs.
"""

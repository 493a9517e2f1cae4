"""Between a verb and the client library.

`url` reads the options, `connections` keeps connections to servers of each kind, `errors` translates what
they raise. `database` runs a script in the right partition, `notify` hears of new work, `health` examines
the server.
"""

"""The code between a verb and the client library.

`url` reads the options, `connections` manages connections to servers of each kind, and `errors` translates
the errors of the client library. `database` runs a script in the right partition, `notify` receives
notifications of new work, and `health` examines the server.
"""

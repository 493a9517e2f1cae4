"""The code between a verb and the client library.

`url` parses URLs and their options, `connections` manages connections to servers of each kind, and `errors`
translates the errors of the client library. `database` runs a script in a partition, `notify` receives
notifications of new work, and `health` checks the server.
"""

"""The layer between a verb and the driver.

`transaction` runs single statements. `database` runs a verb in a transaction; `server_database` does the same
on a database server, with connections from the `pool`. `within` joins the caller's own transaction.
`counting` updates the number of jobs per queue when transactions commit. `full_reads` skips old index entries
after slow reads, `notify` notifies servers, and `url` reads the options.
"""

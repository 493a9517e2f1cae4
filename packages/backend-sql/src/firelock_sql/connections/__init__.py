"""Between a verb and the driver.

`transaction` runs one statement, `database` runs a verb in a transaction and `server_database` does so on a
database server, with connections from the `pool`. `within` joins the caller's own transaction. `counting`
keeps the number of jobs of each queue as transactions commit, `whole_looks` leaves out old entries of an
index after long reads, `notify` wakes servers, and `url` reads the options.
"""

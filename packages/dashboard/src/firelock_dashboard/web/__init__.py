"""The code between a request and a page.

`routes` finds the view of a path, `request` defines the object that the view receives, and `fields` checks
parameters. `sections` lists the entries of the navigation. `rendering` renders a template with `texts`,
`icons`, `urls`, `assets` and `formatting`, and `payloads` formats arguments and results. `actions` contains
the actions of buttons, `event_stream` keeps pages up to date, and `extensions` adds pages of plugins.
`frameworks` mounts the dashboard in other frameworks, and `connections` limits the connections of its own
server.
"""

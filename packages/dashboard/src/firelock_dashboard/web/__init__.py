"""Between a request and a page.

`routes` finds the view of an address and `request` is what the view gets; `fields` checks parameters.
`sections` lists what the navigation leads to. `rendering` fills a template, with `texts`, `icons`, `urls`,
`assets` and `formatting`, and `payloads` shows arguments and results. `actions` are what buttons do,
`event_stream` keeps pages current, `extensions` are pages of plugins. `frameworks` mounts the dashboard in
others, `connections` limits those of its own server.
"""

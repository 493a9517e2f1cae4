"""A model of the session protocol, explored state by state, and the rules that are proved necessary by it."""

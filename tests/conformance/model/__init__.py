"""A model of the session protocol, explored state by state, and the rules it proves necessary."""

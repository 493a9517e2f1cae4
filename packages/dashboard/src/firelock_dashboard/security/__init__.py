"""Who may do what, and what nobody may see.

Read `permissions` first, which says what there is to be allowed; `csrf` refuses requests by their shape and
origin; `auth` asks who comes, `passwords` and `links` are two ways to say it; `redaction` masks secrets, with
`card_numbers` those that are card numbers.
"""

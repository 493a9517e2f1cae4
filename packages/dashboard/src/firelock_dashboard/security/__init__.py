"""Access control and the masking of secrets.

Read `permissions` first, which defines the permissions. `csrf` refuses malformed and cross-site requests.
`auth` identifies visitors; `passwords` and `links` are two ways for them to log in. `redaction` masks
secrets, and `card_numbers` finds card numbers among them.
"""

"""Issue, list, rotate, revoke, verify and deliver ClearML credentials, by API.

Every identity has a key of its own, labelled on the server with testbed, user and purpose. No table of ours says which
keys are out: the server lists them by label, and a host proves the one it holds by logging in with it.
"""

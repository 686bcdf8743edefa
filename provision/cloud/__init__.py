"""Servers, networks and volumes of a testbed in an OpenStack cloud.

Data flows one way: `desired` (what the spec wants) and `observed` (what is there) → `plan` → `apply`. What is there is
read from the cloud each time: every resource carries the testbed's mark, and no file keeps a list of them.
"""

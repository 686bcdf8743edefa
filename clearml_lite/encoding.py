"""JSON as it is stored and sent: by one encoder, for `json.dumps` with settings makes a new one each time."""

import json

encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
decode = json.JSONDecoder().decode

"""The programs of the tree by what the supervisor must know of them. Imports nothing: the supervisor stays small."""

STORES = ("redis", "secrets")
SERVICES = ("engine", "acs", "endpoint", "init", "telemetry", "images", "storage", "local")
TERMINAL = ("acs", "engine")  # their exit status 5 ends the service
TERMINAL_STATUS = 5
BEAT_LIMIT_SECONDS = 60.0

"""The programs of the tree by what the supervisor must know of them. Imports nothing: the supervisor stays small."""

STORES = ("redis", "secrets")
SERVICES = ("engine", "acs", "endpoint", "init", "telemetry", "images", "storage", "local")
TERMINAL = ("acs", "engine")  # their exit status 5 ends the service
TERMINAL_STATUS = 5
FAILED_STATUS = 1  # an error that the program knows, in words
CRASH_STATUS = 2  # an exception that nobody expected; Python's own status for it is 1 (spec 09 §16.2)
QUICK_TO_STOP = ("endpoint", "telemetry", "images", "storage")  # stopwaitsecs of 5 in supervisord.conf
BEAT_LIMIT_SECONDS = 60.0

"""The version that the agent reports.

The reference puts "<version> (<commit>)" into registration, introspection and User-Agent. VERSION is that of the
reference whose behaviour this agent follows: the control plane gates features on it.
"""

VERSION = "1.105.1"
COMMIT = "python"

"""The servers that containers and operators talk to: credentials, task metadata, stats, agent API, introspection.

Everything is answered from memory (`view`), which follows the change feeds of both Redis servers (`follow`), so reads
go on while Redis is away. Answers are rendered on the first request after a change and kept as bytes.
"""

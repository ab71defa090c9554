"""The command `ecs-local`: starts the process tree on this machine and runs task definitions in it.

A plain client of the local control plane: it talks the ECS API like anyone else, and to Docker only for logs, for the
sample image and for tidying up. It uses threads and no gevent.
"""

"""The embedded local control plane: a real ECS API for one machine, and the command `ecs-local`.

A task definition runs on a laptop through the same agent code that runs it under Amazon ECS: clients (boto3, the aws
CLI) talk the ECS API to this process, this process talks ACS and TCS to the agent. `core` decides and does nothing,
`api` is the operations, `acs` and `tcs` are the two sessions with the agent, `store` and `state` remember, `tool` is
the command line.
"""

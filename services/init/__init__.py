"""ecs-init: netfilter rules, sysctl and the route of the task endpoint; the service verbs."""

"""EBS volumes of tasks: mounted by the CSI driver before their task comes, unmounted when it has stopped."""

"""The shapes of the messages that ACS sends (spec 02 §2).

Members that this agent does not use are listed all the same when their type matters: a wrong type drops the message.
"""

from __future__ import annotations

from typing import Any

from common.wire.shapes import Mismatch, boolean, integer, list_of, number, string, string_map, strings, struct


def anything(value: Any) -> dict[str, Any]:
    """Messages that are only recognised: any object will do."""
    if not isinstance(value, dict):
        raise Mismatch("an object")
    return value


CREDENTIALS = struct(
    credentialsId=string,
    roleArn=string,
    accessKeyId=string,
    secretAccessKey=string,
    sessionToken=string,
    expiration=string,
    credentialScope=string,
)

INTERFACE = struct(
    name=string,
    macAddress=string,
    attachmentArn=string,
    ec2Id=string,
    index=integer,
    interfaceAssociationProtocol=string,
    interfaceTunnelProperties=struct(tunnelId=string, interfaceIpAddress=string),
    interfaceVethProperties=struct(peerInterface=string),
    interfaceVlanProperties=struct(vlanId=string, trunkInterfaceMacAddress=string),
    ipv4Addresses=list_of(struct(privateAddress=string, primary=boolean)),
    ipv6Addresses=list_of(struct(address=string, primary=boolean)),
    domainName=strings,
    domainNameServers=strings,
    privateDnsName=string,
    subnetGatewayIpv4Address=string,
    subnetGatewayIpv6Address=string,
)

ATTACHMENT = struct(
    attachmentArn=string,
    attachmentType=string,
    attachmentProperties=list_of(struct(name=string, value=string)),
)

CONTAINER = struct(
    name=string,
    image=string,
    essential=boolean,
    cpu=integer,
    memory=integer,
    command=strings,
    entryPoint=strings,
    environment=string_map,
    environmentFiles=list_of(struct(value=string, type=string)),
    links=strings,
    portMappings=list_of(struct(containerPort=integer, hostPort=integer, containerPortRange=string, protocol=string)),
    mountPoints=list_of(struct(sourceVolume=string, containerPath=string, readOnly=boolean)),
    volumesFrom=list_of(struct(sourceContainer=string, readOnly=boolean)),
    overrides=string,
    dockerConfig=struct(version=string, config=string, hostConfig=string),
    registryAuthentication=struct(
        type=string,
        ecrAuthData=struct(registryId=string, region=string, endpointOverride=string, useExecutionRole=boolean),
        asmAuthData=struct(credentialsParameter=string, region=string),
    ),
    secrets=list_of(
        struct(
            name=string,
            valueFrom=string,
            containerPath=string,
            type=string,
            region=string,
            provider=string,
            target=string,
        )
    ),
    dependsOn=list_of(struct(containerName=string, condition=string)),
    startTimeout=integer,
    stopTimeout=integer,
    healthCheckType=string,
    logsAuthStrategy=string,
    firelensConfiguration=struct(type=string, options=string_map),
    managedAgents=list_of(struct(name=string, properties=string_map)),
    credentialSpecs=strings,
    restartPolicy=struct(enabled=boolean, ignoredExitCodes=list_of(integer, 0), restartAttemptPeriod=integer),
    containerArn=string,
    privileged=boolean,
    networkInterfaceNames=strings,
    linuxParameters=struct(
        capabilities=struct(add=strings, drop=strings),
        devices=list_of(struct(hostPath=string, containerPath=string, permissions=strings)),
        initProcessEnabled=boolean,
        sharedMemorySize=integer,
    ),
)

VOLUME = struct(
    name=string,
    type=string,
    host=struct(sourcePath=string),
    dockerVolumeConfiguration=struct(
        scope=string, autoprovision=boolean, driver=string, driverOpts=string_map, labels=string_map
    ),
    efsVolumeConfiguration=struct(
        fileSystemId=string,
        rootDirectory=string,
        transitEncryption=string,
        transitEncryptionPort=integer,
        authorizationConfig=struct(accessPointId=string, iam=string),
    ),
    fsxWindowsFileServerVolumeConfiguration=struct(
        fileSystemId=string,
        rootDirectory=string,
        authorizationConfig=struct(credentialsParameter=string, domain=string),
    ),
    ebsVolumeConfiguration=struct(
        volumeId=string, deleteOnTermination=boolean, deviceName=string, filesystemType=string
    ),
    logDriverVolumeConfiguration=struct(driver=string),
)

TASK = struct(
    arn=string,
    desiredStatus=string,
    family=string,
    version=string,
    serviceName=string,
    group=string,
    containers=list_of(CONTAINER),
    volumes=list_of(VOLUME),
    associations=list_of(
        struct(name=string, type=string, content=struct(encoding=string, value=string), containers=strings)
    ),
    cpu=number,
    memory=integer,
    pidMode=string,
    ipcMode=string,
    networkMode=string,
    launchType=string,
    enableFaultInjection=boolean,
    roleCredentials=CREDENTIALS,
    executionRoleCredentials=CREDENTIALS,
    elasticNetworkInterfaces=list_of(INTERFACE),
    proxyConfiguration=struct(type=string, containerName=string, properties=string_map),
    attachments=list_of(ATTACHMENT),
    overrides=string,
    taskClusterArn=string,
    zone=string,
    taskDefinitionAccountId=string,
    agentConfiguration=string,
    trustedExecutionConfiguration=struct(isolationMode=string),
)

TASK_IDENTIFIER = struct(taskArn=string, taskClusterArn=string, desiredStatus=string)
TEXT = struct(message=string)
UPDATE = struct(
    clusterArn=string,
    containerInstanceArn=string,
    messageId=string,
    updateInfo=struct(location=string, signature=string),
)

HANDLED = {
    "PayloadMessage": struct(
        clusterArn=string,
        containerInstanceArn=string,
        messageId=string,
        generatedAt=integer,
        seqNum=integer,
        timeline=integer,
        tasks=list_of(TASK),
    ),
    "HeartbeatMessage": struct(healthy=boolean, messageId=string),
    "IAMRoleCredentialsMessage": struct(
        messageId=string, taskArn=string, taskClusterArn=string, roleType=string, roleCredentials=CREDENTIALS
    ),
    "AttachTaskNetworkInterfacesMessage": struct(
        clusterArn=string,
        containerInstanceArn=string,
        taskArn=string,
        taskClusterArn=string,
        generatedAt=integer,
        messageId=string,
        waitTimeoutMs=integer,
        elasticNetworkInterfaces=list_of(INTERFACE),
    ),
    "AttachInstanceNetworkInterfacesMessage": struct(
        clusterArn=string,
        containerInstanceArn=string,
        generatedAt=integer,
        messageId=string,
        waitTimeoutMs=integer,
        elasticNetworkInterfaces=list_of(INTERFACE),
    ),
    "ConfirmAttachmentMessage": struct(
        clusterArn=string,
        containerInstanceArn=string,
        taskArn=string,
        taskClusterArn=string,
        generatedAt=integer,
        messageId=string,
        waitTimeoutMs=integer,
        attachment=ATTACHMENT,
    ),
    "TaskManifestMessage": struct(
        clusterArn=string,
        containerInstanceArn=string,
        generatedAt=integer,
        messageId=string,
        timeline=integer,
        tasks=list_of(TASK_IDENTIFIER),
    ),
    "TaskStopVerificationAck": struct(generatedAt=integer, messageId=string, stopTasks=list_of(TASK_IDENTIFIER)),
    "StageUpdateMessage": UPDATE,
    "PerformUpdateMessage": UPDATE,
}

EXCEPTIONS = (
    "ServerException",
    "BadRequestException",
    "InvalidClusterException",
    "InvalidInstanceException",
    "AccessDeniedException",
    "InactiveInstanceException",
)
LOGGED = ("CloseMessage", "ErrorMessage", *EXCEPTIONS)
SENT_BY_AGENTS = (
    "AckRequest",
    "NackRequest",
    "HeartbeatAckRequest",
    "IAMRoleCredentialsAckRequest",
    "TaskStopVerificationMessage",
)

RECOGNISED = {
    **HANDLED,
    **dict.fromkeys(LOGGED, TEXT),
    **dict.fromkeys(SENT_BY_AGENTS, anything),
}

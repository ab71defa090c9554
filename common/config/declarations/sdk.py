"""Proxy, TLS and AWS SDK variables (spec 01 §2.8): the clients read most of them themselves."""

from common.config.kinds import INTEGER, SDK_BOOL, STRING, URL
from common.config.option import Option

_CHAIN = "acs, engine, endpoint"
_CLIENTS = "all AWS clients"
_SERVICES = {name: "" for name in ("ECS", "EC2", "S3", "SSM", "SECRETS_MANAGER", "ECR")} | {
    "FSX": "this agent never calls it",
    "CLOUDWATCH_LOGS": "Docker sends the logs, not the agent",
}

PROXY = (
    Option(
        "HTTP_PROXY", URL, aliases=("http_proxy",), used_by="all",
        doc="Proxy for `http` URLs, and for `https` ones of most clients when `HTTPS_PROXY` is not set. A URL "
            "or `host:port`. Upper case wins over lower case.",
    ),
    Option("HTTPS_PROXY", URL, aliases=("https_proxy",), used_by="all", doc="Proxy for `https` URLs."),
    Option(
        "NO_PROXY", STRING, aliases=("no_proxy",), used_by="all",
        default_text="`169.254.169.254,169.254.170.2,` and the path of `DOCKER_HOST`",
        doc="Hosts, domains and networks that are reached directly. The two addresses of the default are added to "
            "any other value: metadata and credentials of a container never go through a proxy.",
    ),
    Option(
        "REQUEST_METHOD", STRING, used_by="all",
        doc="When it is set, a proxy taken from `HTTP_PROXY` is refused: a CGI server could have put it there.",
    ),
    Option("SSL_CERT_DIR", STRING, used_by="all", doc="Directory of certificate authorities."),
    Option("SSL_CERT_FILE", STRING, used_by="all", doc="File of certificate authorities."),
    Option("AWS_CA_BUNDLE", STRING, used_by=_CLIENTS, doc="Certificate authorities for AWS endpoints."),
)  # fmt: skip

CREDENTIALS = (
    Option("AWS_ACCESS_KEY_ID", STRING, aliases=("AWS_ACCESS_KEY",), used_by=_CHAIN, doc="Access key of the agent."),
    Option(
        "AWS_SECRET_ACCESS_KEY", STRING, aliases=("AWS_SECRET_KEY",), secret=True, used_by=_CHAIN, doc="Its secret."
    ),
    Option("AWS_SESSION_TOKEN", STRING, secret=True, used_by=_CHAIN, doc="Its session token."),
    Option(
        "AWS_PROFILE", STRING, aliases=("AWS_DEFAULT_PROFILE",), used_by=_CHAIN,
        doc="Profile of the shared files. A profile that does not exist keeps the agent from starting.",
    ),
    Option("AWS_SHARED_CREDENTIALS_FILE", STRING, used_by=_CHAIN, doc="Shared credentials file."),
    Option("AWS_CONFIG_FILE", STRING, used_by=_CHAIN, doc="Shared configuration file."),
    Option("AWS_WEB_IDENTITY_TOKEN_FILE", STRING, used_by=_CHAIN,
        doc="Token for `AWS_ROLE_ARN`; not in external mode."),
    Option("AWS_ROLE_ARN", STRING, used_by=_CHAIN, doc="Role to assume with the token."),
    Option("AWS_ROLE_SESSION_NAME", STRING, used_by=_CHAIN, doc="Name of that session."),
    Option(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", STRING, secret=True, used_by=_CHAIN,
        doc="Credentials of a container, when the agent itself runs as a task; not in external mode. Its id "
            "is a secret.",
    ),
    Option(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", STRING, secret=True, used_by=_CHAIN, doc="The same as a complete URL."
    ),
    Option(
        "AWS_CONTAINER_AUTHORIZATION_TOKEN", STRING, secret=True, used_by=_CHAIN, doc="Token for that request."
    ),
    Option("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", STRING, used_by=_CHAIN, doc="File that holds that token."),
    Option(
        "AWS_REGION", STRING, used_by=_CHAIN,
        doc="Region of the STS and SSO calls of the credentials chain only. The agent's own region is "
            "`AWS_DEFAULT_REGION`.",
    ),
)  # fmt: skip

CLIENTS = (
    Option("AWS_EC2_METADATA_DISABLED", SDK_BOOL, used_by="acs", doc="Do not ask the instance metadata service."),
    Option(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", URL, "http://169.254.169.254", used_by="acs",
        doc="Endpoint of the instance metadata service.",
    ),
    Option(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", STRING, "IPv4", used_by="acs",
        doc="`IPv4`, or `IPv6` for `http://[fd00:ec2::254]`. The agent does not change to IPv6 by itself.",
    ),
    Option("AWS_EC2_METADATA_V1_DISABLED", SDK_BOOL, used_by="acs", doc="Never fall back to IMDSv1."),
    Option("AWS_USE_FIPS_ENDPOINT", SDK_BOOL, used_by=_CLIENTS, doc="FIPS endpoints."),
    Option("AWS_USE_DUALSTACK_ENDPOINT", SDK_BOOL, used_by=_CLIENTS, doc="Dual-stack endpoints; not for EC2."),
    Option("AWS_ENDPOINT_URL", URL, used_by=_CLIENTS, doc="Endpoint of every AWS service that has no other setting."),
    *(
        Option(
            f"AWS_ENDPOINT_URL_{service}", URL, used_by="nobody" if no_effect else _CLIENTS, no_effect=no_effect,
            doc="Endpoint of this one service.",
        )
        for service, no_effect in _SERVICES.items()
    ),
    Option(
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", SDK_BOOL, used_by=_CLIENTS,
        doc="Ignore configured endpoints; this includes `ECS_BACKEND_HOST`.",
    ),
    Option("AWS_MAX_ATTEMPTS", INTEGER, "3", used_by=_CLIENTS, doc="Attempts for one API call."),
    Option(
        "AWS_RETRY_MODE", STRING, "standard", used_by="nobody", no_effect="every client goes by the standard mode",
        doc="Retry mode of the SDK.",
    ),
)  # fmt: skip

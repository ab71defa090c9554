"""Objects of Amazon S3 for a task: environment files and FireLens configurations (spec 05 §8.2, §9.2).

The bucket's region is asked for first, in the agent's region, since an object ARN does not name it.
"""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple

from common import fips
from common.model.agent import Credentials
from services.engine.resources import aws
from services.engine.resources.files import Writer
from services.engine.resources.kind import Host

log = logging.getLogger(__name__)

REGION_SECONDS = 30.0
DOWNLOAD_SECONDS = 30.0  # in all
CHUNK_BYTES = 64 * 1024
REGION_HEADER = "x-amz-bucket-region"
FIPS_REGIONS = frozenset((
    "us-east-1", "us-east-2", "us-west-1", "us-west-2", "us-gov-east-1", "us-gov-west-1", "ca-central-1", "ca-west-1",
))  # fmt: skip
_ARN = re.compile(r"arn:([^:]+):s3:::([^/]+)/(.+)")


class Object(NamedTuple):
    """An object of a bucket."""

    bucket: str
    key: str


def parse_arn(arn: str) -> Object:
    """The object that an ARN names. Raises ValueError."""
    match = _ARN.search(arn)
    if match is None:
        raise ValueError(f"invalid s3 arn: {arn}")
    return Object(match[2], match[3])


def client_for(bucket: str, role: Credentials, host: Host) -> aws.Client:
    """A client for the bucket's region. Raises AwsError."""
    here = _client(host.region, role, host)
    region = _region_of(bucket, here)
    return here if region in ("", host.region) else _client(region, role, host)


def _region_of(bucket: str, client: aws.Client) -> str:
    """The header of whatever answer, also of a refusal. Raises AwsError."""
    try:
        with aws.deadline(REGION_SECONDS):
            answer = client.call("head_bucket", Bucket=bucket)
    except aws.AwsError as error:
        if REGION_HEADER in error.headers:
            return error.headers[REGION_HEADER]
        if error.status == 404:
            raise aws.AwsError("bucket not found", error.code, 404) from error
        raise
    headers = (answer.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
    return str(headers.get(REGION_HEADER) or "")


def _client(region: str, role: Credentials, host: Host) -> aws.Client:
    return aws.Client("s3", region, role, dual_stack=host.settings.ipv6_only, fips=_wants_fips(region))


def _wants_fips(region: str) -> bool:
    return region in FIPS_REGIONS and fips.is_on()


def download(client: aws.Client, wanted: Object, writer: Writer) -> None:
    """The object's bytes into `writer`; an empty object is fine. Raises AwsError and OSError."""

    def read(answer: Any) -> None:
        for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
            writer.write(chunk)

    with aws.deadline(DOWNLOAD_SECONDS):
        client.call("get_object", read, Bucket=wanted.bucket, Key=wanted.key)


def content(client: aws.Client, wanted: Object, longest: int) -> bytes:
    """The object's bytes, for objects of up to `longest` bytes. Raises AwsError."""
    with aws.deadline(DOWNLOAD_SECONDS):
        found: bytes = client.call(
            "get_object", lambda answer: answer["Body"].read(longest + 1), Bucket=wanted.bucket, Key=wanted.key
        )
    if len(found) > longest:
        raise aws.AwsError(f"the object {wanted.key} of bucket {wanted.bucket} has more than {longest} bytes")
    return found

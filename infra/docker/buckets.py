"""`python buckets.py anyres-dvc anyres-mlflow`: create missing buckets. AWS_* variables give the address and the keys."""

from __future__ import annotations

import sys

import boto3
from botocore.exceptions import ClientError


def main(names: list[str]) -> int:
    client = boto3.client("s3")
    for name in names:
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            client.create_bucket(Bucket=name)
        print(f"bucket {name} exists")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

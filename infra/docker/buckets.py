"""Make buckets where they are missing: `python buckets.py anyres-dvc anyres-mlflow`. AWS_* variables say where and as whom."""

from __future__ import annotations

import sys

import boto3
from botocore.exceptions import ClientError


def main(names: list[str]) -> int:
    store = boto3.client("s3")
    for name in names:
        try:
            store.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            store.create_bucket(Bucket=name)
        print(f"bucket {name} is there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

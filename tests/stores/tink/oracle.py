"""Opens sealed fields with stock Tink and serialises their context with the stock AWS Encryption SDK.

Reads JSON lines {"key", "key_id", "context", "sealed"} and writes, for each, {"aad", "plain", "resealed"}: the context
as the AWS Encryption SDK serialises it, what Tink opens `sealed` to (null where it refuses), and the same plaintext
sealed by Tink. Byte strings are hexadecimal.
"""

import json
import sys

import tink
from aws_encryption_sdk.internal.formatting.encryption_context import serialize_encryption_context
from tink import aead, secret_key_access
from tink.proto import aes_gcm_pb2, tink_pb2


def primitive(key_id: int, key: bytes) -> aead.Aead:
    """The AEAD of a keyset with this one key."""
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmKey",
        value=aes_gcm_pb2.AesGcmKey(version=0, key_value=key).SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    entry = tink_pb2.Keyset.Key(
        key_data=data,
        status=tink_pb2.KeyStatusType.ENABLED,
        key_id=key_id,
        output_prefix_type=tink_pb2.OutputPrefixType.TINK,
    )
    keyset = tink_pb2.Keyset(primary_key_id=key_id, key=[entry])
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(aead.Aead)


def judge(case: dict) -> dict:
    """One line's answer."""
    stock = primitive(case["key_id"], bytes.fromhex(case["key"]))
    aad = serialize_encryption_context(case["context"])
    try:
        plain = stock.decrypt(bytes.fromhex(case["sealed"]), aad)
    except tink.TinkError:
        return {"aad": aad.hex(), "plain": None, "resealed": None}
    return {"aad": aad.hex(), "plain": plain.hex(), "resealed": stock.encrypt(plain, aad).hex()}


def main() -> None:
    aead.register()
    for line in sys.stdin:
        print(json.dumps(judge(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

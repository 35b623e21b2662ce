//! The sealed field: Tink AEAD wire format, bound to its place by an AWS Encryption SDK context.

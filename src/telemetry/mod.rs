//! Every metric as a documented variant; logs; redaction.

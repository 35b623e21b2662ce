//! Who signed this record, for whom and when: decided over the received bytes before anything is parsed.

//! Headers through the C interface: rdkafka 0.39 panics on a header name that is not UTF-8, which any client can send.
//! The only unsafe code of this crate.
#![expect(
    unsafe_code,
    reason = "header names that are not UTF-8 panic in the safe wrapper"
)]

use std::ffi::{CStr, c_char};
use std::ptr;

use rdkafka::Timestamp;
use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_broker_id,
    rd_kafka_resp_err_t,
};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Message, OwnedHeaders};

use crate::record::{Captured, Header, Record};

/// Calls `visit` with each header's name and value, in order.
pub fn each_header<'m>(message: &'m BorrowedMessage<'_>, mut visit: impl FnMut(&'m [u8], Option<&'m [u8]>)) {
    let Some(headers) = message.headers() else { return };
    let native = ptr::from_ref::<BorrowedHeaders>(headers).cast::<rd_kafka_headers_t>();
    for index in 0.. {
        let mut name: *const c_char = ptr::null();
        let mut value = ptr::null();
        let mut size = 0;
        // SAFETY: `native` is the headers object that `BorrowedHeaders` stands for (rdkafka's own accessors make the same
        // cast) and lives as long as the message; the three out-pointers are ours.
        let error = unsafe { rd_kafka_header_get_all(native, index, &mut name, &mut value, &mut size) };
        if error != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return;
        }
        // SAFETY: librdkafka terminates names with a zero byte, gives a value's size, and keeps both with the message.
        let (name, value): (&'m [u8], Option<&'m [u8]>) = unsafe {
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name).to_bytes(), value)
        };
        visit(name, value);
    }
}

/// Copies a whole message out of the client.
#[must_use]
pub fn captured(message: &BorrowedMessage<'_>) -> Captured {
    let mut headers = Vec::new();
    each_header(message, |name, value| {
        headers.push(Header {
            name: name.to_vec(),
            value: value.map(<[u8]>::to_vec),
        });
    });
    // SAFETY: the pointer belongs to the message and is only read.
    let broker = unsafe { rd_kafka_message_broker_id(message.ptr()) };
    Captured {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        log_append_time: matches!(message.timestamp(), Timestamp::LogAppendTime(_)),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        broker,
        record: Record {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        },
    }
}

/// Headers for producing, with names that need not be UTF-8.
#[must_use]
pub fn owned_headers(headers: &[Header]) -> OwnedHeaders {
    let owned = OwnedHeaders::new_with_capacity(headers.len());
    let native = ptr::from_ref::<BorrowedHeaders>(owned.as_borrowed())
        .cast::<rd_kafka_headers_t>()
        .cast_mut();
    for header in headers {
        let name_size = header.name.len().cast_signed();
        let (value, value_size) = match &header.value {
            Some(value) => (value.as_ptr().cast(), value.len().cast_signed()),
            None => (ptr::null(), 0),
        };
        // SAFETY: `native` is the object that `owned` holds, which has no other reference yet; the call copies name and
        // value, takes their sizes and needs no terminator.
        let error =
            unsafe { rd_kafka_header_add(native, header.name.as_ptr().cast(), name_size, value, value_size) };
        debug_assert_eq!(error, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    owned
}

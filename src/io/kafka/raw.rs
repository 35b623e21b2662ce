//! The librdkafka calls that the safe wrapper lacks or panics in: thirteen functions, for five reasons.
//!
//! - A batch of messages is taken from one queue with `rd_kafka_consume_batch_queue`, and returned with
//!   `rd_kafka_message_destroy`: the wrapper's `poll` costs an event object and an `Arc` per message, three times the CPU
//!   of the batch call. `rd_kafka_message_timestamp` reads the time of such a message.
//! - Partition queues (`rd_kafka_queue_get_partition`) are forwarded with `rd_kafka_queue_forward` to that one queue
//!   (`rd_kafka_queue_new`, `rd_kafka_queue_destroy`), so that rebalances stay on the consumer's own queue, where the
//!   batch call would lose them.
//! - Records are produced with `rd_kafka_produce_batch` from memory that we own, without a copy, to a topic handle
//!   (`rd_kafka_topic_new`, `rd_kafka_topic_destroy`).
//! - Headers are read with `rd_kafka_message_headers` and `rd_kafka_header_get_all`: the wrapper panics on a name that is
//!   not UTF-8.
//! - `rd_kafka_flush` is called with a real timeout: the wrapper's `flush` polls for 100 ms at a time.
//!
//! Unsafe code is confined to this module and one call in `settle`, which upholds the contract of [`Topic::produce`].
//! Everything that librdkafka frees with its client holds an `Arc` of that client: a queue, the messages taken from it,
//! and a topic.
#![expect(unsafe_code, reason = "librdkafka calls that rdkafka 0.39 does not wrap")]

use std::any::Any;
use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use std::{ptr, slice};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka_sys as sys;

use pulsegate_ledger::record::{Received, SignatureHeaders};

/// A queue of our own that partition queues are forwarded to. It keeps its client alive.
pub struct Queue<C: ConsumerContext + 'static> {
    queue: *mut sys::rd_kafka_queue_t,
    client: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl<C: ConsumerContext + 'static> Send for Queue<C> {}

impl<C: ConsumerContext + 'static> Queue<C> {
    /// Creates an empty queue on a client.
    #[must_use]
    pub fn new(client: &Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the client is live; the call only allocates.
        let queue = unsafe { sys::rd_kafka_queue_new(client.client().native_ptr()) };
        Self {
            queue,
            client: Arc::clone(client),
        }
    }

    /// Sends the messages fetched for one partition to this queue instead of to the consumer's own. Call it before the
    /// partition is assigned, or messages may already be in the consumer's queue.
    ///
    /// # Errors
    ///
    /// When the topic name holds a NUL byte or librdkafka does not know the partition.
    pub fn forward(&self, topic: &str, partition: i32) -> Result<(), KafkaError> {
        let topic = CString::new(topic).map_err(KafkaError::from)?;
        let client = self.client.client().native_ptr();
        // SAFETY: the queue holds its client, and the returned reference is dropped below; forwarding takes its own.
        unsafe {
            let source = sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if source.is_null() {
                return Err(KafkaError::Subscription(
                    "failed to forward a partition: unknown to librdkafka".to_owned(),
                ));
            }
            sys::rd_kafka_queue_forward(source, self.queue);
            sys::rd_kafka_queue_destroy(source);
        }
        Ok(())
    }

    /// Takes up to `records_max` messages, waiting at most `timeout` for as many: librdkafka does not return early with
    /// fewer. A zero timeout takes what is available.
    pub fn consume(&self, messages: &mut Messages, records_max: usize, timeout: Duration) {
        messages.clear();
        let records_max = records_max.min(messages.pointers.capacity());
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is live, and the pointer array is empty and has room for at least `records_max` entries.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue,
                timeout_ms,
                messages.pointers.as_mut_ptr(),
                records_max,
            )
        };
        if let Ok(count @ 1..) = usize::try_from(count) {
            // SAFETY: the call has written `count` valid message pointers, which we now own.
            unsafe { messages.pointers.set_len(count) };
            messages.client = Some(Arc::clone(&self.client) as _);
        }
    }
}

impl<C: ConsumerContext + 'static> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: we own this reference, nothing uses it afterwards, and the client is dropped after it.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) }
    }
}

/// The messages of one batch call. They are returned to librdkafka when cleared or dropped, and keep the client that they
/// came from alive until then.
pub struct Messages {
    pointers: Vec<*mut sys::rd_kafka_message_t>,
    /// Their client; `None` when there are no messages.
    client: Option<Arc<dyn Any>>,
}

impl Messages {
    /// Allocates room for at most `records_max` messages.
    #[must_use]
    pub fn with_capacity(records_max: usize) -> Self {
        Self {
            pointers: Vec::with_capacity(records_max),
            client: None,
        }
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pointers.len()
    }

    /// Whether there are no messages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pointers.is_empty()
    }

    /// Iterates over the messages in the order in which they were fetched.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        self.pointers.iter().map(|&pointer| Message {
            pointer,
            messages: PhantomData,
        })
    }

    /// Returns the first `count` messages to librdkafka.
    pub fn release(&mut self, count: usize) {
        for message in self.pointers.drain(..count) {
            // SAFETY: each pointer is ours and is destroyed once, as it leaves the vector.
            unsafe { sys::rd_kafka_message_destroy(message) }
        }
        self.let_go();
    }

    /// Returns the messages of a partition to librdkafka.
    pub fn forget(&mut self, partition: i32) {
        self.pointers.retain(|&message| {
            // SAFETY: each pointer is ours, live until it is destroyed here, once, as it leaves the vector.
            unsafe {
                let kept = (*message).partition != partition;
                if !kept {
                    sys::rd_kafka_message_destroy(message);
                }
                kept
            }
        });
        self.let_go();
    }

    /// Lets go of the client once no message needs it.
    fn let_go(&mut self) {
        if self.pointers.is_empty() {
            self.client = None;
        }
    }

    fn clear(&mut self) {
        self.release(self.len());
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One message of a batch.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pointer: *mut sys::rd_kafka_message_t,
    messages: PhantomData<&'a Messages>,
}

impl<'a> Message<'a> {
    /// Partition of the message, also when it is an error.
    #[must_use]
    pub fn partition(self) -> i32 {
        // SAFETY: the message lives as long as `messages`.
        unsafe { (*self.pointer).partition }
    }

    /// Offset of the message.
    #[must_use]
    pub fn offset(self) -> i64 {
        // SAFETY: the message lives as long as `messages`.
        unsafe { (*self.pointer).offset }
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(self) -> Option<&'a [u8]> {
        // SAFETY: the message lives as long as `messages`, and so do the bytes it points to.
        unsafe { bytes((*self.pointer).key, (*self.pointer).key_len) }
    }

    /// The value; a null value is empty.
    #[must_use]
    pub fn value(self) -> &'a [u8] {
        // SAFETY: the message lives as long as `messages`, and so do the bytes it points to.
        unsafe { bytes((*self.pointer).payload, (*self.pointer).len).unwrap_or_default() }
    }

    /// Size of key and value, in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.value().len() + self.key().map_or(0, <[u8]>::len)
    }

    /// Whether it marks the present end of the log; such messages come only with `enable.partition.eof`.
    #[must_use]
    pub fn is_end(self) -> bool {
        self.error() == Some(RDKafkaErrorCode::PartitionEOF)
    }

    /// The error that was delivered in place of a record, if any.
    #[must_use]
    pub fn error(self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the message lives as long as `messages`.
        let error = unsafe { (*self.pointer).err };
        (error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| error.into())
    }

    /// The record, and whether its timestamp is the broker's (`LogAppendTime`).
    #[must_use]
    pub fn received(self) -> (Received<'a>, bool) {
        // SAFETY: the message lives as long as `messages`, and so do the bytes it points to.
        unsafe {
            let message = &*self.pointer;
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let appended_ms = sys::rd_kafka_message_timestamp(self.pointer, &raw mut kind);
            let record = Received {
                partition: message.partition,
                offset: message.offset,
                appended_ms,
                key: self.key(),
                value: self.value(),
                signature: signature_headers(self.pointer),
            };
            (
                record,
                kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME,
            )
        }
    }
}

/// # Safety
///
/// `pointer` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the contract of this function.
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts(pointer.cast(), len) })
}

/// # Safety
///
/// `message` points to a live message; the headers live as long as it does.
unsafe fn signature_headers<'a>(message: *const sys::rd_kafka_message_t) -> SignatureHeaders<'a> {
    let mut taken = SignatureHeaders::default();
    // SAFETY: by the contract of this function.
    let headers = unsafe { Headers::of(message) };
    headers.for_each(|(name, value)| taken.take(name, value));
    taken
}

/// The value of the first header of this name that has a value.
#[must_use]
pub fn header<'m>(message: &'m BorrowedMessage<'_>, name: &[u8]) -> Option<&'m [u8]> {
    // SAFETY: the message is live for as long as it is borrowed.
    let mut headers = unsafe { Headers::of(message.ptr()) };
    headers.find_map(|(found, value)| value.filter(|_| found == name))
}

/// The headers of a message, with names as bytes: the wrapper panics on a name that is not UTF-8.
struct Headers<'a> {
    /// Null if the message has no headers.
    headers: *mut sys::rd_kafka_headers_t,
    next: usize,
    message: PhantomData<&'a ()>,
}

impl<'a> Headers<'a> {
    /// # Safety
    ///
    /// `message` points to a message that lives for `'a`.
    unsafe fn of(message: *const sys::rd_kafka_message_t) -> Self {
        let mut headers = ptr::null_mut();
        // SAFETY: by the contract of this function; librdkafka parses into memory that the message owns.
        let error = unsafe { sys::rd_kafka_message_headers(message, &raw mut headers) };
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            headers = ptr::null_mut();
        }
        Self {
            headers,
            next: 0,
            message: PhantomData,
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.headers.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers are not null, and like what the call points to they live as long as their message.
        unsafe {
            let error = sys::rd_kafka_header_get_all(
                self.headers,
                self.next,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            self.next += 1;
            (error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR)
                .then(|| (CStr::from_ptr(name).to_bytes(), bytes(value, size)))
        }
    }
}

/// One record for [`Topic::produce`]: borrowed memory that outlives its delivery.
pub struct Outgoing<'a> {
    /// The partition; always explicit.
    pub partition: i32,
    /// The key; empty means null.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A producer's handle on one topic. It keeps its client alive.
pub struct Topic<C: ProducerContext + 'static> {
    topic: *mut sys::rd_kafka_topic_t,
    #[expect(dead_code, reason = "dropped after the handle")]
    client: Arc<BaseProducer<C>>,
    batch: Vec<sys::rd_kafka_message_t>,
}

// SAFETY: librdkafka's topic handles may be used from any thread, the producer is `Send` and `Sync`, and nothing reads the
// pointers that the vector keeps between calls.
unsafe impl<C: ProducerContext + Send + Sync + 'static> Send for Topic<C> {}

impl<C: ProducerContext + 'static> Topic<C> {
    /// Opens `name` on a producer.
    ///
    /// # Errors
    ///
    /// When the name holds a NUL byte or is refused.
    pub fn new(producer: &Arc<BaseProducer<C>>, name: &str) -> Result<Self, KafkaError> {
        let name = CString::new(name).map_err(KafkaError::from)?;
        // SAFETY: a null configuration means the client's defaults.
        let topic = unsafe {
            sys::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut())
        };
        if topic.is_null() {
            return Err(KafkaError::ClientCreation("topic name refused".to_owned()));
        }
        Ok(Self {
            topic,
            client: Arc::clone(producer),
            batch: Vec::new(),
        })
    }

    /// Enqueues every record without copying it.
    ///
    /// # Errors
    ///
    /// The error of the first refused record. Others may be enqueued: the transaction must be aborted.
    ///
    /// # Safety
    ///
    /// The bytes must stay where they are, unchanged, until the producer has nothing in flight, or is destroyed. A panic
    /// of the caller is no exception.
    pub unsafe fn produce<'a>(
        &mut self,
        records: impl Iterator<Item = Outgoing<'a>>,
    ) -> Result<(), KafkaError> {
        self.batch.clear();
        self.batch.extend(records.map(|record| sys::rd_kafka_message_t {
            err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: ptr::null_mut(),
            partition: record.partition,
            payload: record.value.as_ptr().cast_mut().cast(),
            len: record.value.len(),
            key: if record.key.is_empty() {
                ptr::null_mut()
            } else {
                record.key.as_ptr().cast_mut().cast()
            },
            key_len: record.key.len(),
            offset: 0,
            _private: ptr::null_mut(),
        }));
        let Ok(count) = i32::try_from(self.batch.len()) else {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        };
        // SAFETY: the array holds `count` messages; the caller keeps their bytes in place.
        let enqueued = unsafe {
            sys::rd_kafka_produce_batch(
                self.topic,
                -1, // RD_KAFKA_PARTITION_UA: each message names its own.
                sys::RD_KAFKA_MSG_F_PARTITION,
                self.batch.as_mut_ptr(),
                count,
            )
        };
        if enqueued == count {
            return Ok(());
        }
        let refused = self.batch.iter().map(|message| message.err);
        let first = refused
            .into_iter()
            .find(|err| *err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        let code = first.map_or(RDKafkaErrorCode::Fail, RDKafkaErrorCode::from);
        self.batch.clear();
        Err(KafkaError::MessageProduction(code))
    }
}

impl<C: ProducerContext + 'static> Drop for Topic<C> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is destroyed once, before its client.
        unsafe { sys::rd_kafka_topic_destroy(self.topic) }
    }
}

/// Sends what is enqueued without waiting for linger and waits until nothing is in flight, or until `timeout`.
/// True when nothing is in flight.
///
/// Failed deliveries stay in flight until the producer is polled for their reports.
#[must_use]
pub fn flush<C: ProducerContext>(producer: &BaseProducer<C>, timeout: Duration) -> bool {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the producer is live for as long as it is borrowed.
    let result = unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), timeout_ms) };
    result == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

//! `mq-embedded` for C and whatever calls C. The header is `mq_embedded.h`, made from this file.
//!
//! Handles are made and freed here. A call that fails says so by its result and leaves the reason in
//! `mq_last_error`, its kind in `mq_last_kind`. Texts that go in end with a zero and are UTF-8; those that come out have a length.
#![allow(unsafe_code, reason = "C hands over bare pointers; each function says what it takes")]

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mq_embedded::{Consumer, Delivery, Error, ErrorKind, Flush, Message, Mq};

/// An open store. Any number of threads may use it, but none when `mq_close` frees it; consumers
/// and deliveries are still to be freed after that, each by its own function.
pub struct MqStore(Mq);
/// A member of a consumer group. Any number of threads may use it, but none when `mq_unsubscribe`
/// frees it. `mq_close` ends their waiting.
pub struct MqConsumer(Consumer);
/// A message that waits to be acknowledged. One thread at a time may use it, any one.
pub struct MqDelivery {
    delivery: Delivery,
    /// The body, if it came compressed and was looked at.
    unpacked: OnceCell<Vec<u8>>,
}

/// What the lines above promise.
const _: () = {
    const fn any_threads<T: Send + Sync>() {}
    const fn any_thread<T: Send>() {}
    any_threads::<MqStore>();
    any_threads::<MqConsumer>();
    any_thread::<MqDelivery>();
};

/// Bytes that belong to somebody else.
#[repr(C)]
pub struct MqBytes {
    pub data: *const u8,
    pub len: usize,
}

/// A message to be sent. `tag` and `keys` may be NULL.
#[repr(C)]
pub struct MqMessage {
    pub topic: *const c_char,
    pub tag: *const c_char,
    pub keys: *const c_char,
    pub body: MqBytes,
}

/// Where a message went, and its id, which ends with a zero; one of more than 63 bytes is cut.
#[repr(C)]
pub struct MqSent {
    pub queue_id: i32,
    pub queue_offset: u64,
    pub id: [c_char; 64],
}

/// What was delivered. Everything it points to lives as long as the delivery. Without a tag or
/// keys `data` is NULL. A body that a client compressed is unpacked.
#[repr(C)]
pub struct MqView {
    pub topic: MqBytes,
    pub tag: MqBytes,
    pub keys: MqBytes,
    pub body: MqBytes,
    pub queue_id: i32,
    pub queue_offset: u64,
    pub reconsume_times: i32,
    pub id: [c_char; 64],
}

/// Why a call failed. Numbers stay what they are; more may come.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum MqKind {
    /// None did yet.
    None = 0,
    /// A topic, group or message that is not there.
    NotFound = 1,
    /// A mistake of the caller's: a NULL, a name, number or message that cannot be.
    Invalid = 2,
    /// A topic or group whose permissions say no.
    Denied = 3,
    /// The store was closed.
    Closed = 4,
    /// Somebody else has the store open.
    Locked = 5,
    /// There is no disk space. It passes when there is.
    Full = 6,
    /// The disk does not keep up. It passes.
    Busy = 7,
    /// The disk took too long to confirm a message, which is stored.
    Timeout = 8,
    /// The operating system refused, or a sync failed: then nothing is written any more before the
    /// store is opened anew.
    Io = 9,
    /// Files or messages are not what they were.
    Damaged = 10,
    /// A body that is compressed in a way that is not read here.
    Unsupported = 11,
    /// A mistake of this library's.
    Bug = 12,
}

/// What went wrong.
struct Failure(MqKind, String);

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let kind = match e.kind() {
            ErrorKind::NotFound => MqKind::NotFound,
            ErrorKind::Invalid => MqKind::Invalid,
            ErrorKind::Denied => MqKind::Denied,
            ErrorKind::Closed => MqKind::Closed,
            ErrorKind::Locked => MqKind::Locked,
            ErrorKind::Full => MqKind::Full,
            ErrorKind::Busy => MqKind::Busy,
            ErrorKind::Timeout => MqKind::Timeout,
            ErrorKind::Damaged => MqKind::Damaged,
            ErrorKind::Unsupported => MqKind::Unsupported,
            _ => MqKind::Io,
        };
        Failure(kind, e.to_string())
    }
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure(MqKind::Invalid, text.into())
}

thread_local! {
    static LAST: RefCell<(MqKind, CString)> = RefCell::new((MqKind::None, CString::default()));
}

/// Runs `work`; what goes wrong is kept for `mq_last_error`, and `failed` is given back.
fn guarded<T>(failed: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let text = "the store panicked: a bug, please report it with what was called";
        Err(Failure(MqKind::Bug, text.into()))
    });
    outcome.unwrap_or_else(|Failure(kind, text)| {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        LAST.with(|last| *last.borrow_mut() = (kind, text));
        failed
    })
}

/// SAFETY: `text` is NULL or a text that ends with a zero and lives through the call.
unsafe fn optional<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| invalid(format!("{what} is not UTF-8")))
}

/// SAFETY: as of [`optional`].
unsafe fn required<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    // SAFETY: as the caller promises.
    unsafe { optional(text, what) }?.ok_or_else(|| invalid(format!("{what} is NULL")))
}

/// SAFETY: NULL, or a handle that this library made and that was not freed.
unsafe fn handle<'a, T>(handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: as the caller promises.
    unsafe { handle.as_ref() }.ok_or_else(|| invalid("the handle is NULL"))
}

fn bytes(bytes: Option<&[u8]>) -> MqBytes {
    let data = bytes.map_or(std::ptr::null(), <[u8]>::as_ptr);
    MqBytes { data, len: bytes.map_or(0, <[u8]>::len) }
}

fn id(text: &str) -> [c_char; 64] {
    let mut id = [0; 64];
    // One stays zero.
    for (to, from) in id[..63].iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    id
}

/// Why the last call of this thread that failed did; valid until the next one that does.
#[unsafe(no_mangle)]
pub extern "C" fn mq_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().1.as_ptr())
}

/// Of what kind that was; `MQ_KIND_NONE` if no call of this thread failed yet.
#[unsafe(no_mangle)]
pub extern "C" fn mq_last_kind() -> MqKind {
    LAST.with(|last| last.borrow().0)
}

/// Opens the store in `folder`, which is made if it is not there. With `sync` a message is on the
/// disk when `mq_send` returns; without, it survives the process, not a power cut. NULL: it failed.
///
/// # Safety
/// `folder` is a text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_open(folder: *const c_char, sync: bool) -> *mut MqStore {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as the caller promises.
        let folder = unsafe { required(folder, "folder") }?;
        let builder = Mq::builder();
        let builder = if sync { builder.flush(Flush::Sync) } else { builder };
        Ok(Box::into_raw(Box::new(MqStore(builder.open(folder)?))))
    })
}

/// Closes a store and frees the handle; NULL is nothing. 0, or -1 if something could not be saved.
///
/// # Safety
/// `store` comes from `mq_open` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_close(store: *mut MqStore) -> i32 {
    guarded(-1, || {
        if store.is_null() {
            return Ok(0);
        }
        // SAFETY: it was made by `Box::into_raw` in `mq_open`.
        let store = unsafe { Box::from_raw(store) };
        store.0.close()?;
        Ok(0)
    })
}

/// Sends a message. 0: it is stored, and `sent`, which may be NULL, says where. -1: it is not.
///
/// # Safety
/// `store` comes from `mq_open`; what `message` points to is there; `sent` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_send(
    store: *const MqStore,
    message: *const MqMessage,
    sent: *mut MqSent,
) -> i32 {
    guarded(-1, || {
        // SAFETY: as the caller promises.
        let (store, m) = unsafe { (handle(store)?, handle(message)?) };
        // SAFETY: as the caller promises.
        let (topic, tag, keys) = unsafe {
            (required(m.topic, "topic")?, optional(m.tag, "tag")?, optional(m.keys, "keys")?)
        };
        let body: &[u8] = match (m.body.data.is_null(), m.body.len) {
            (_, 0) => &[],
            (true, _) => return Err(invalid("the body is NULL and has a length")),
            // SAFETY: as the caller promises.
            (false, len) => unsafe { std::slice::from_raw_parts(m.body.data, len) },
        };
        let mut message = Message::new(topic, body);
        message = tag.into_iter().fold(message, |m, tag| m.tag(tag));
        message = keys.into_iter().fold(message, |m, keys| m.key(keys));
        let done = store.0.producer().send(&message)?;
        // SAFETY: NULL, or to be written, as the caller promises.
        if let Some(sent) = unsafe { sent.as_mut() } {
            *sent = MqSent {
                queue_id: done.queue_id(),
                queue_offset: done.queue_offset(),
                id: id(&done.id()),
            };
        }
        Ok(0)
    })
}

/// Joins a group that wants messages of a topic with some tags, as "a || b" or "*". NULL: it failed.
///
/// # Safety
/// `store` comes from `mq_open`; the texts end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_subscribe(
    store: *const MqStore,
    group: *const c_char,
    topic: *const c_char,
    tags: *const c_char,
) -> *mut MqConsumer {
    guarded(std::ptr::null_mut(), || {
        // SAFETY: as the caller promises.
        let (store, group, topic, tags) = unsafe {
            (
                handle(store)?,
                required(group, "group")?,
                required(topic, "topic")?,
                required(tags, "tags")?,
            )
        };
        let consumer = store.0.consumer(group).subscribe(topic, tags).start()?;
        Ok(Box::into_raw(Box::new(MqConsumer(consumer))))
    })
}

/// Leaves the group and frees the handle; NULL is nothing. What was not acknowledged comes again.
///
/// # Safety
/// `consumer` comes from `mq_subscribe` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_unsubscribe(consumer: *mut MqConsumer) {
    guarded((), || {
        if !consumer.is_null() {
            // SAFETY: it was made by `Box::into_raw` in `mq_subscribe`.
            drop(unsafe { Box::from_raw(consumer) });
        }
        Ok(())
    });
}

/// Waits for a message. 1: `delivery` is one, to be given to `mq_ack`, `mq_retry` or `mq_release`; 0: none
/// came in time; -1: it failed.
///
/// # Safety
/// `consumer` comes from `mq_subscribe`; `delivery` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_poll(
    consumer: *const MqConsumer,
    timeout_ms: u32,
    delivery: *mut *mut MqDelivery,
) -> i32 {
    guarded(-1, || {
        // SAFETY: as the caller promises.
        let (consumer, to) = unsafe { (handle(consumer)?, delivery.as_mut()) };
        let to = to.ok_or_else(|| invalid("delivery is NULL"))?;
        *to = std::ptr::null_mut();
        let timeout = Duration::from_millis(timeout_ms.into());
        match consumer.0.poll(1, timeout)?.pop() {
            Some(one) => {
                let one = MqDelivery { delivery: one, unpacked: OnceCell::new() };
                *to = Box::into_raw(Box::new(one));
                Ok(1)
            }
            None => Ok(0),
        }
    })
}

/// Shows what was delivered. 0, or -1 for a NULL, or a body that does not unpack: only zlib does. The
/// delivery stays as it is.
///
/// # Safety
/// `delivery` comes from `mq_poll`; `view` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_view(delivery: *const MqDelivery, view: *mut MqView) -> i32 {
    guarded(-1, || {
        // SAFETY: as the caller promises.
        let (it, to) = unsafe { (handle(delivery)?, view.as_mut()) };
        let to = to.ok_or_else(|| invalid("view is NULL"))?;
        let d = &it.delivery;
        let body = match it.unpacked.get() {
            Some(unpacked) => unpacked,
            None => match d.content()? {
                Cow::Borrowed(body) => body,
                Cow::Owned(body) => it.unpacked.get_or_init(|| body),
            },
        };
        *to = MqView {
            topic: bytes(Some(d.topic().as_bytes())),
            tag: bytes(d.tag().map(str::as_bytes)),
            keys: bytes(d.keys().map(str::as_bytes)),
            body: bytes(Some(body)),
            queue_id: d.queue_id(),
            queue_offset: d.queue_offset(),
            reconsume_times: d.reconsume_times(),
            id: id(&d.id()),
        };
        Ok(0)
    })
}

/// SAFETY: `delivery` comes from `mq_poll` and is not used again.
unsafe fn take(delivery: *mut MqDelivery) -> Result<Delivery, Failure> {
    if delivery.is_null() {
        return Err(invalid("the delivery is NULL"));
    }
    // SAFETY: it was made by `Box::into_raw` in `mq_poll`.
    Ok(unsafe { Box::from_raw(delivery) }.delivery)
}

/// Acknowledges a delivery and frees it. 0, or -1 for a NULL.
///
/// # Safety
/// `delivery` comes from `mq_poll` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_ack(delivery: *mut MqDelivery) -> i32 {
    guarded(-1, || {
        // SAFETY: as the caller promises.
        unsafe { take(delivery) }?.ack();
        Ok(0)
    })
}

/// Has a delivery come again after a while, or, if it failed too often, go to the dead letters; and frees
/// it. 0, or -1 if it could not be put back: then it comes when the group starts anew.
///
/// # Safety
/// `delivery` comes from `mq_poll` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_retry(delivery: *mut MqDelivery) -> i32 {
    guarded(-1, || {
        // SAFETY: as the caller promises.
        unsafe { take(delivery) }?.retry()?;
        Ok(0)
    })
}

/// Frees a delivery without a word: it comes again when the consumer leaves. NULL is nothing.
///
/// # Safety
/// `delivery` comes from `mq_poll` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mq_release(delivery: *mut MqDelivery) {
    guarded((), || {
        if !delivery.is_null() {
            // SAFETY: as the caller promises.
            drop(unsafe { take(delivery) }?);
        }
        Ok(())
    });
}

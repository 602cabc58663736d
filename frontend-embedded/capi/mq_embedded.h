#ifndef MQ_EMBEDDED_H
#define MQ_EMBEDDED_H

/* Made from src/lib.rs by cbindgen; a test compares the two. */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 Why a call failed. Numbers stay what they are; more may come.
 */
typedef enum MqKind {
  /*
   None did yet.
   */
  MQ_KIND_NONE = 0,
  /*
   A topic, group or message that is not there.
   */
  MQ_KIND_NOT_FOUND = 1,
  /*
   A mistake of the caller's: a NULL, a name, number or message that cannot be.
   */
  MQ_KIND_INVALID = 2,
  /*
   A topic or group whose permissions say no.
   */
  MQ_KIND_DENIED = 3,
  /*
   The store was closed.
   */
  MQ_KIND_CLOSED = 4,
  /*
   Somebody else has the store open.
   */
  MQ_KIND_LOCKED = 5,
  /*
   There is no disk space. It passes when there is.
   */
  MQ_KIND_FULL = 6,
  /*
   The disk does not keep up. It passes.
   */
  MQ_KIND_BUSY = 7,
  /*
   The disk took too long to confirm a message, which is stored.
   */
  MQ_KIND_TIMEOUT = 8,
  /*
   The operating system refused, or a sync failed: then nothing is written any more before the
   store is opened anew.
   */
  MQ_KIND_IO = 9,
  /*
   Files or messages are not what they were.
   */
  MQ_KIND_DAMAGED = 10,
  /*
   A body that is compressed in a way that is not read here.
   */
  MQ_KIND_UNSUPPORTED = 11,
  /*
   A mistake of this library's.
   */
  MQ_KIND_BUG = 12,
} MqKind;

/*
 A member of a consumer group. Any number of threads may use it, but none when `mq_unsubscribe`
 frees it. `mq_close` ends their waiting.
 */
typedef struct MqConsumer MqConsumer;

/*
 A message that waits to be acknowledged. One thread at a time may use it, any one.
 */
typedef struct MqDelivery MqDelivery;

/*
 An open store. Any number of threads may use it, but none when `mq_close` frees it; consumers
 and deliveries are still to be freed after that, each by its own function.
 */
typedef struct MqStore MqStore;

/*
 Bytes that belong to somebody else.
 */
typedef struct MqBytes {
  const uint8_t *data;
  size_t len;
} MqBytes;

/*
 A message to be sent. `tag` and `keys` may be NULL.
 */
typedef struct MqMessage {
  const char *topic;
  const char *tag;
  const char *keys;
  struct MqBytes body;
} MqMessage;

/*
 Where a message went, and its id, which ends with a zero; one of more than 63 bytes is cut.
 */
typedef struct MqSent {
  int32_t queue_id;
  uint64_t queue_offset;
  char id[64];
} MqSent;

/*
 What was delivered. Everything it points to lives as long as the delivery. Without a tag or
 keys `data` is NULL. A body that a client compressed is unpacked.
 */
typedef struct MqView {
  struct MqBytes topic;
  struct MqBytes tag;
  struct MqBytes keys;
  struct MqBytes body;
  int32_t queue_id;
  uint64_t queue_offset;
  int32_t reconsume_times;
  char id[64];
} MqView;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Why the last call of this thread that failed did; valid until the next one that does.
 */
const char *mq_last_error(void);

/*
 Of what kind that was; `MQ_KIND_NONE` if no call of this thread failed yet.
 */
enum MqKind mq_last_kind(void);

/*
 Opens the store in `folder`, which is made if it is not there. With `sync` a message is on the
 disk when `mq_send` returns; without, it survives the process, not a power cut. NULL: it failed.

 # Safety
 `folder` is a text that ends with a zero.
 */
struct MqStore *mq_open(const char *folder, bool sync);

/*
 Closes a store and frees the handle; NULL is nothing. 0, or -1 if something could not be saved.

 # Safety
 `store` comes from `mq_open` and is not used again.
 */
int32_t mq_close(struct MqStore *store);

/*
 Sends a message. 0: it is stored, and `sent`, which may be NULL, says where. -1: it is not.

 # Safety
 `store` comes from `mq_open`; what `message` points to is there; `sent` is NULL or may be written.
 */
int32_t mq_send(const struct MqStore *store, const struct MqMessage *message, struct MqSent *sent);

/*
 Joins a group that wants messages of a topic with some tags, as "a || b" or "*". NULL: it failed.

 # Safety
 `store` comes from `mq_open`; the texts end with a zero.
 */
struct MqConsumer *mq_subscribe(const struct MqStore *store,
                                const char *group,
                                const char *topic,
                                const char *tags);

/*
 Leaves the group and frees the handle; NULL is nothing. What was not acknowledged comes again.

 # Safety
 `consumer` comes from `mq_subscribe` and is not used again.
 */
void mq_unsubscribe(struct MqConsumer *consumer);

/*
 Waits for a message. 1: `delivery` is one, to be given to `mq_ack`, `mq_retry` or `mq_release`; 0: none
 came in time; -1: it failed.

 # Safety
 `consumer` comes from `mq_subscribe`; `delivery` may be written.
 */
int32_t mq_poll(const struct MqConsumer *consumer,
                uint32_t timeout_ms,
                struct MqDelivery **delivery);

/*
 Shows what was delivered. 0, or -1 for a NULL, or a body that does not unpack: only zlib does. The
 delivery stays as it is.

 # Safety
 `delivery` comes from `mq_poll`; `view` may be written.
 */
int32_t mq_view(const struct MqDelivery *delivery, struct MqView *view);

/*
 Acknowledges a delivery and frees it. 0, or -1 for a NULL.

 # Safety
 `delivery` comes from `mq_poll` and is not used again.
 */
int32_t mq_ack(struct MqDelivery *delivery);

/*
 Has a delivery come again after a while, or, if it failed too often, go to the dead letters; and frees
 it. 0, or -1 if it could not be put back: then it comes when the group starts anew.

 # Safety
 `delivery` comes from `mq_poll` and is not used again.
 */
int32_t mq_retry(struct MqDelivery *delivery);

/*
 Frees a delivery without a word: it comes again when the consumer leaves. NULL is nothing.

 # Safety
 `delivery` comes from `mq_poll` and is not used again.
 */
void mq_release(struct MqDelivery *delivery);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MQ_EMBEDDED_H */

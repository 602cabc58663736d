/* Sends messages, looks at them, has them come again, acknowledges them; reads one that a client compressed. */
#include <stdio.h>
#include <string.h>

#include "mq_embedded.h"

#define CHECK(what)                                                                        \
    do {                                                                                   \
        if (!(what)) {                                                                     \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, mq_last_error()); \
            return 1;                                                                      \
        }                                                                                  \
    } while (0)

static bool is(struct MqBytes bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    MqStore *store = mq_open(arguments[1], false);
    CHECK(store);
    CHECK(mq_last_kind() == MQ_KIND_NONE);
    CHECK(!mq_open(arguments[1], false) && strlen(mq_last_error()) > 0);
    CHECK(mq_last_kind() == MQ_KIND_LOCKED);

    const char *body = "resize a.png";
    struct MqMessage message = {"Jobs", "resize", "7", {(const uint8_t *)body, strlen(body)}};
    struct MqSent sent;
    CHECK(mq_send(store, &message, &sent) == 0);
    CHECK(sent.queue_offset == 0 && strlen(sent.id) == 32);
    message.topic = "no such name!";
    CHECK(mq_send(store, &message, NULL) == -1 && mq_last_kind() == MQ_KIND_INVALID);
    CHECK(mq_send(NULL, &message, NULL) == -1 && mq_last_kind() == MQ_KIND_INVALID);
    CHECK(!mq_open("/dev/null/store", false) && mq_last_kind() == MQ_KIND_IO);

    MqConsumer *consumer = mq_subscribe(store, "resizers", "Jobs", "resize");
    CHECK(consumer);
    MqDelivery *job;
    CHECK(mq_poll(consumer, 5000, &job) == 1);
    struct MqView view;
    CHECK(mq_view(job, &view) == 0);
    CHECK(is(view.topic, "Jobs") && view.reconsume_times == 0 && strcmp(view.id, sent.id) == 0);
    printf("%.*s of %.*s, key %.*s\n", (int)view.body.len, view.body.data, (int)view.tag.len,
           view.tag.data, (int)view.keys.len, view.keys.data);
    mq_release(job);
    CHECK(mq_poll(consumer, 0, &job) == 0 && !job);
    mq_unsubscribe(consumer);

    /* It was not acknowledged, so another member gets it. */
    consumer = mq_subscribe(store, "resizers", "Jobs", "*");
    CHECK(consumer);
    CHECK(mq_poll(consumer, 5000, &job) == 1);
    CHECK(mq_view(job, &view) == 0);
    printf("once more: %.*s\n", (int)view.body.len, view.body.data);
    CHECK(mq_ack(job) == 0);
    CHECK(mq_poll(consumer, 0, &job) == 0);

    /* It failed: it comes again in 10 s, without tag and keys and with a zero in its body. */
    struct MqMessage later = {"Jobs", NULL, NULL, {(const uint8_t *)"a\0b", 3}};
    CHECK(mq_send(store, &later, NULL) == 0);
    CHECK(mq_poll(consumer, 5000, &job) == 1);
    CHECK(mq_view(job, &view) == 0);
    CHECK(!view.tag.data && !view.keys.data && view.body.len == 3 && view.body.data[2] == 'b');
    CHECK(mq_retry(job) == 0);
    CHECK(mq_poll(consumer, 0, &job) == 0);
    mq_unsubscribe(consumer);

    /* The test that runs this has put one there; run by hand there is none. */
    consumer = mq_subscribe(store, "unpackers", "Zipped", "*");
    CHECK(consumer);
    if (mq_poll(consumer, 0, &job) == 1) {
        CHECK(mq_view(job, &view) == 0 && is(view.body, "unpacked"));
        printf("unpacked\n");
        CHECK(mq_ack(job) == 0);
    }
    mq_unsubscribe(consumer);

    /* A consumer outlives the store, and is told. */
    consumer = mq_subscribe(store, "resizers", "Jobs", "*");
    CHECK(consumer);
    CHECK(mq_close(store) == 0);
    CHECK(mq_poll(consumer, 5000, &job) == -1 && mq_last_kind() == MQ_KIND_CLOSED);
    mq_unsubscribe(consumer);
    return 0;
}

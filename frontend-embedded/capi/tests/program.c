/* Sends a message, looks at it, has it come again, acknowledges it. */
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
    CHECK(!mq_open(arguments[1], false) && strlen(mq_last_error()) > 0); /* in use */

    const char *body = "resize a.png";
    struct MqMessage message = {"Jobs", "resize", "7", {(const uint8_t *)body, strlen(body)}};
    struct MqSent sent;
    CHECK(mq_send(store, &message, &sent) == 0);
    CHECK(sent.queue_offset == 0 && strlen(sent.id) == 32);
    message.topic = "no such name!";
    CHECK(mq_send(store, &message, NULL) == -1);
    CHECK(mq_send(NULL, &message, NULL) == -1);

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
    mq_unsubscribe(consumer);
    CHECK(mq_close(store) == 0);
    return 0;
}

/* Calls of every kind against a daemon. Usage: calls PID: the process of the daemon at $INVOKED_ADDRESS, started
 * with `--dev`, which is killed at the end. */
#define _POSIX_C_SOURCE 200809L
#include "invoked.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #what, error.message); \
            exit(1); \
        } \
    } while (0)

static invoked_error error;
static invoked_client *client;

static void json_and_errors(void)
{
    invoked_message *reply;
    invoked_json value, part;
    uint64_t n = 0;
    CHECK(invoked_invoke(client, "core.echo", "{\"n\":9007199254740993,\"most\":18446744073709551615}", &reply, &error) == 0);
    CHECK(reply->codec == INVOKED_CODEC_JSON && invoked_json_parse(reply->body.ptr, reply->body.len, &value) == 0);
    CHECK(invoked_json_get(value, "n", &part) == 0 && invoked_json_u64(part, &n) == 0 && n == UINT64_C(9007199254740993));
    CHECK(invoked_json_get(value, "most", &part) == 0 && invoked_json_u64(part, &n) == 0 && n == UINT64_MAX);
    invoked_message_free(reply);

    CHECK(invoked_invoke(client, "no.such_command", NULL, &reply, &error) < 0 && reply == NULL);
    CHECK(error.code == INVOKED_CODE_NOT_FOUND || error.code == INVOKED_CODE_PERMISSION_DENIED);
    CHECK(error.message[0] != 0 && error.delivery == INVOKED_DELIVERY_NOT_DELIVERED);
    CHECK(invoked_invoke(client, "fs.read_file", "{\"path\":\"/etc/hostname\"}", &reply, &error) == -EACCES);
    CHECK(error.code == INVOKED_CODE_PERMISSION_DENIED && error.decision[0] != 0);
    CHECK(invoked_invoke(client, "fs.read_file", "{\"path\":", &reply, &error) == -EINVAL);
    CHECK(invoked_invoke(client, "", NULL, &reply, &error) == -EINVAL);

    invoked_header upper = {"Upper", "x"}, fine = {"x-id", "42"};
    invoked_request request = {.command = "core.ping", .headers = &upper, .header_count = 1};
    CHECK(invoked_do(client, &request, NULL, &error) == -EINVAL);
    request.headers = &fine;
    CHECK(invoked_do(client, &request, NULL, &error) == 0);
}

static void raw_and_attachments(void)
{
    static uint8_t body[300000], attachment[70000];
    invoked_message *reply;
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (uint8_t)(i * 7);
    memset(attachment, 3, sizeof attachment);
    invoked_bytes attachments[] = {{attachment, sizeof attachment}, {"", 0}};
    invoked_request request = {.command = "bench.echo", .content = {INVOKED_CODEC_RAW, {body, sizeof body}, attachments, 2}};
    CHECK(invoked_do(client, &request, &reply, &error) == 0);
    CHECK(reply->codec == INVOKED_CODEC_RAW && reply->body.len == sizeof body && memcmp(reply->body.ptr, body, sizeof body) == 0);
    CHECK(reply->attachment_count == 2 && reply->attachments[0].len == sizeof attachment && reply->attachments[1].len == 0);
    CHECK(memcmp(reply->attachments[0].ptr, attachment, sizeof attachment) == 0);
    invoked_message_free(reply);

    request.content = (invoked_content){.codec = INVOKED_CODEC_RAW};
    CHECK(invoked_do(client, &request, &reply, &error) == 0 && reply->codec == INVOKED_CODEC_RAW && reply->body.len == 0);
    invoked_message_free(reply);
}

static void shared_memory(void)
{
    invoked_options plain = {.no_shared_memory = true};
    invoked_client *other;
    invoked_message *reply, *kept[8];
    /* Often enough that segments are used again, which they are only if what was lent is given back. */
    for (int i = 0; i < 40; i++) {
        CHECK(invoked_invoke(client, "bench.fill", "{\"len\":16777216}", &reply, &error) == 0);
        CHECK(reply->is_shared && reply->body.len == 16777216);
        const uint8_t *bytes = reply->body.ptr;
        CHECK(bytes[0] == 1 && bytes[4096] == 1 && bytes[16777216 - 4096] == 1);
        invoked_message_free(reply);
    }
    for (int i = 0; i < 8; i++)
        CHECK(invoked_invoke(client, "bench.fill", "{\"len\":1048576}", &kept[i], &error) == 0);
    for (int i = 0; i < 8; i++) {
        CHECK(((const uint8_t *)kept[i]->body.ptr)[1048576 - 4096] == 1);
        invoked_message_free(kept[i]);
    }
    CHECK(invoked_connect(&plain, &other, &error) == 0);
    CHECK(invoked_invoke(other, "bench.fill", "{\"len\":1048576}", &reply, &error) == 0);
    CHECK(!reply->is_shared && reply->body.len == 1048576 && ((const uint8_t *)reply->body.ptr)[4096] == 1);
    invoked_close(other);
    CHECK(((const uint8_t *)reply->body.ptr)[0] == 1); /* a message outlives its client */
    invoked_message_free(reply);
}

static void channels(void)
{
    static uint8_t large[400000];
    invoked_call *call;
    invoked_message *item, *reply;
    invoked_json value, part;
    uint64_t n;
    invoked_channel down = {.index = 1, .direction = INVOKED_DIRECTION_DOWN, .window = 4096};
    const char *text = "{\"items\":500,\"size\":1000,\"to\":\"__CHANNEL__:1\"}";
    invoked_request request = {.command = "bench.count", .content = {.codec = INVOKED_CODEC_JSON, .body = {text, strlen(text)}},
                               .channels = &down, .channel_count = 1};
    CHECK(invoked_begin(client, &request, &call) == 0);
    for (int i = 0; i < 500; i++) {
        CHECK(invoked_next(call, 1, 20000, &item, &error) == 1 && item->body.len == 1000);
        invoked_message_free(item);
    }
    CHECK(invoked_next(call, 1, 20000, &item, &error) == 0 && item == NULL);
    CHECK(invoked_wait(call, NULL, &error) == 0);
    CHECK(invoked_next(call, 2, 0, &item, &error) == -EINVAL);
    invoked_call_free(call);

    /* One that is stopped: its sender is told, and the call ends. */
    CHECK(invoked_begin(client, &request, &call) == 0);
    CHECK(invoked_next(call, 1, 20000, &item, &error) == 1);
    invoked_message_free(item);
    CHECK(invoked_stop(call, 1) == 0 && invoked_next(call, 1, 0, &item, &error) == -ECANCELED);
    (void)invoked_wait(call, NULL, &error);
    CHECK(invoked_is_done(call));
    invoked_call_free(call);

    invoked_channel up = {.index = 7, .direction = INVOKED_DIRECTION_UP};
    text = "{\"from\":\"__CHANNEL__:7\"}";
    request = (invoked_request){.command = "bench.collect", .content = {.codec = INVOKED_CODEC_JSON, .body = {text, strlen(text)}},
                                .channels = &up, .channel_count = 1};
    CHECK(invoked_begin(client, &request, &call) == 0);
    invoked_content sent = {.codec = INVOKED_CODEC_RAW, .body = {large, sizeof large}};
    for (int i = 0; i < 5; i++) /* each larger than the window */
        CHECK(invoked_send(call, 7, &sent, 20000) == 0);
    sent.body.len = 10;
    for (int i = 0; i < 1000; i++)
        CHECK(invoked_send(call, 7, &sent, 20000) == 0);
    CHECK(invoked_end(call, 7) == 0 && invoked_send(call, 7, &sent, 0) == -EPIPE);
    CHECK(invoked_wait(call, &reply, &error) == 0 && invoked_json_parse(reply->body.ptr, reply->body.len, &value) == 0);
    CHECK(invoked_json_get(value, "items", &part) == 0 && invoked_json_u64(part, &n) == 0 && n == 1005);
    CHECK(invoked_json_get(value, "bytes", &part) == 0 && invoked_json_u64(part, &n) == 0 && n == 5 * sizeof large + 10000);
    invoked_message_free(reply);
    invoked_call_free(call);
}

static invoked_call *waiting_call(uint64_t timeout_ms)
{
    static const char text[] = "{\"from\":\"__CHANNEL__:1\"}";
    invoked_channel up = {.index = 1, .direction = INVOKED_DIRECTION_UP};
    invoked_request request = {.command = "bench.collect", .content = {.codec = INVOKED_CODEC_JSON, .body = {text, sizeof text - 1}},
                               .channels = &up, .channel_count = 1, .timeout_ms = timeout_ms};
    invoked_call *call;
    CHECK(invoked_begin(client, &request, &call) == 0);
    return call;
}

static void cancel_and_deadline(void)
{
    invoked_call *call = waiting_call(INVOKED_FOREVER);
    CHECK(invoked_cancel(call) == 0 && invoked_wait(call, NULL, &error) == -ECANCELED);
    CHECK(error.code == INVOKED_CODE_CANCELLED);
    invoked_call_free(call);
    call = waiting_call(50);
    CHECK(invoked_wait(call, NULL, &error) == -ETIMEDOUT && error.code == INVOKED_CODE_DEADLINE_EXCEEDED && error.retryable);
    invoked_call_free(call);
    call = waiting_call(0);
    invoked_call_free(call); /* open: it is cancelled */
    CHECK(invoked_invoke(client, "core.ping", NULL, NULL, &error) == 0);
}

static void a_loop_of_its_own(void)
{
    invoked_call *calls[64];
    invoked_request request = {.command = "core.ping"};
    size_t done = 0;
    for (size_t i = 0; i < 64; i++)
        CHECK(invoked_begin(client, &request, &calls[i]) == 0);
    while (done < 64) {
        struct pollfd wait = {.fd = invoked_fd(client), .events = invoked_events(client)};
        CHECK(poll(&wait, 1, invoked_timeout(client)) >= 0 && invoked_drive(client) == 0);
        done = 0;
        for (size_t i = 0; i < 64; i++)
            done += invoked_is_done(calls[i]);
    }
    for (size_t i = 0; i < 64; i++) {
        CHECK(invoked_wait(calls[i], NULL, &error) == 0);
        invoked_call_free(calls[i]);
    }
}

static void connecting(void)
{
    invoked_client *other;
    invoked_options options = {.address = "unix:/nowhere/at/all.sock"};
    CHECK(invoked_connect(&options, &other, &error) == -ENOENT && other == NULL && error.code == INVOKED_CODE_UNAVAILABLE);
    options.address = "relative.sock";
    CHECK(invoked_connect(&options, &other, &error) == -EINVAL);
    const char *keep[] = {"no-such-capability"};
    options = (invoked_options){.name = "calls.c", .version = "1", .narrow = keep, .narrow_count = 1, .narrowed = true};
    CHECK(invoked_connect(&options, &other, &error) == 0);
    CHECK(invoked_warning(other, 0) != NULL && invoked_warning(other, 16) == NULL);
    CHECK(invoked_invoke(other, "core.stats", NULL, NULL, &error) < 0);
    uint64_t peer = invoked_peer(other);
    CHECK(invoked_reconnect(other, &error) == 0 && invoked_generation(other) == 2 && invoked_peer(other) != peer);
    CHECK(invoked_instance(other) == invoked_instance(client));
    invoked_close(other);
}

static void the_daemon_dies(pid_t daemon)
{
    invoked_call *calls[200];
    invoked_message *reply;
    for (size_t i = 0; i < 200; i++)
        calls[i] = waiting_call(INVOKED_FOREVER);
    CHECK(invoked_invoke(client, "bench.fill", "{\"len\":1048576}", &reply, &error) == 0 && reply->is_shared);
    CHECK(kill(daemon, SIGKILL) == 0);
    for (size_t i = 0; i < 200; i++) {
        CHECK(invoked_wait(calls[i], NULL, &error) < 0);
        CHECK(error.code == INVOKED_CODE_UNAVAILABLE ? error.delivery != INVOKED_DELIVERY_COMPLETED : error.code == INVOKED_CODE_RESOURCE_EXHAUSTED);
        invoked_call_free(calls[i]);
    }
    CHECK(!invoked_is_connected(client) && invoked_problem(client)[0] != 0 && invoked_fd(client) == -1);
    CHECK(invoked_invoke(client, "core.ping", NULL, NULL, &error) == -ENOTCONN);
    CHECK(invoked_reconnect(client, &error) < 0 && error.code == INVOKED_CODE_UNAVAILABLE);
    CHECK(((const uint8_t *)reply->body.ptr)[0] == 1); /* what was lent stays until it is freed */
    invoked_message_free(reply);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    CHECK(invoked_connect(NULL, &client, &error) == 0 && invoked_is_connected(client) && invoked_generation(client) == 1);
    json_and_errors();
    raw_and_attachments();
    shared_memory();
    channels();
    cancel_and_deadline();
    a_loop_of_its_own();
    connecting();
    the_daemon_dies((pid_t)atoi(argv[1]));
    invoked_close(client);
    printf("the daemon is gone: every call ended\n");
    return 0;
}

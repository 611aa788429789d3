/* invoked.h: call commands of an `invoked` daemon from C11.
 *
 * Functions that can fail return 0 (or what they say) or a negative errno. A call that ends with an error of the daemon
 * or of its command tells the rest in an invoked_error. A client and all that belongs to it are used by one thread at a
 * time; different clients have nothing in common. No thread is started and no signal is raised.
 */
#ifndef INVOKED_H
#define INVOKED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "invoked_registry.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INVOKED_VERSION "0.1.0"

typedef struct invoked_client invoked_client;
typedef struct invoked_call invoked_call;

/* Bytes that belong to somebody else. */
typedef struct invoked_bytes {
    const void *ptr;
    size_t len;
} invoked_bytes;

/* A header of a call or a reply: the key has a-z, 0-9, '-', '_' and '.', the value is UTF-8. */
typedef struct invoked_header {
    const char *key;
    const char *value;
} invoked_header;

/* ---------------------------------------------------------------- errors */
/* No number: `retry_after_ms` of an error that has none. */
#define INVOKED_NONE UINT64_MAX

/* Why a call, a channel or a connect ended. Texts are for people, and cut at a whole character where they don't fit. */
typedef struct invoked_error {
    /* A number of enum invoked_code. INVOKED_CODE_APPLICATION is the command's own error, whose message comes as reply. */
    uint32_t code;
    /* Whether the command ran: a number of enum invoked_delivery. */
    int delivery;
    /* Whether the same call may succeed later, and not before how many milliseconds (or INVOKED_NONE). */
    bool retryable;
    uint64_t retry_after_ms;
    /* The id of the decision of a denial, for `invokectl explain`; else empty. */
    char decision[64];
    char message[512];
} invoked_error;

/* The name of a code as the registry writes it; "unknown" of a number without a name. */
const char *invoked_code_name(uint32_t code);

/* The errno (positive) with which a call of this code ends, such as EACCES for permission_denied; EREMOTEIO for the
 * command's own errors. */
int invoked_code_errno(uint32_t code);

/* ---------------------------------------------------------------- connections */
/* Who may listen at the other end. The kernel says who does. */
enum invoked_server {
    /* Root or this process's uid. At an address that nobody named, also the owner of a directory that only root or that
     * owner could have made. */
    INVOKED_SERVER_TRUSTED = 0,
    /* These, and `server_uid`. */
    INVOKED_SERVER_UID = 1,
    /* Anyone: for an address that is trusted for another reason. */
    INVOKED_SERVER_ANYONE = 2,
};

/* How to connect; all zero is a good start. Nothing of it is used after the connect. */
typedef struct invoked_options {
    /* `unix:/path` or an absolute path. NULL: $INVOKED_ADDRESS, else the system's daemon for root and the user's own
     * daemon for others, as `invokectl` chooses. */
    const char *address;
    /* The program's name and version, for people; NULL for none. */
    const char *name;
    const char *version;
    /* Capabilities to keep: with `narrowed`, all others are given up for the whole connection. */
    const char *const *narrow;
    size_t narrow_count;
    bool narrowed;
    enum invoked_server server;
    uint32_t server_uid;
    /* Time for connect and handshake together; 0 for 5 seconds. */
    uint32_t timeout_ms;
    /* Take all results inside the socket, none in shared memory. */
    bool no_shared_memory;
} invoked_options;

/* Connects and waits for the daemon's welcome. `options` and `error` may be NULL. */
int invoked_connect(const invoked_options *options, invoked_client **client, invoked_error *error);

/* Connects again, to the same address with the same options. Open calls of the old connection end first, with
 * `unavailable`. Nothing is sent again. */
int invoked_reconnect(invoked_client *client, invoked_error *error);

/* Ends all open calls and closes the socket. Calls and messages that the program still has stay valid until they are
 * freed. NULL is allowed. */
void invoked_close(invoked_client *client);

/* Whether the connection is there, as far as it is known. */
bool invoked_is_connected(const invoked_client *client);

/* How often it was connected: 1 after invoked_connect. */
uint64_t invoked_generation(const invoked_client *client);

/* A number of the daemon that changes when it is started anew. */
uint64_t invoked_instance(const invoked_client *client);

/* The id that the daemon gave this connection. */
uint64_t invoked_peer(const invoked_client *client);

/* The uid of the daemon, from the kernel. */
uint32_t invoked_server_uid(const invoked_client *client);

/* Warnings of the daemon's welcome for the program's author: text `at`, or NULL past the last. */
const char *invoked_warning(const invoked_client *client, size_t at);

/* ---------------------------------------------------------------- messages */
/* What is sent: a body and up to 16 attachments of raw bytes. In a JSON body attachment N stands as the string
 * "__ATTACHMENT__:N". The bytes are copied before the function that takes it returns. */
typedef struct invoked_content {
    /* INVOKED_CODEC_NONE (and no body), INVOKED_CODEC_RAW or INVOKED_CODEC_JSON. */
    enum invoked_codec codec;
    invoked_bytes body;
    const invoked_bytes *attachments;
    size_t attachment_count;
} invoked_content;

/* What came: a result, the message of an application's error, or an item of a channel. Free it with
 * invoked_message_free. Bytes in shared memory are not copied: they are lent until then. */
typedef struct invoked_message {
    int codec;
    invoked_bytes body;
    const invoked_bytes *attachments;
    size_t attachment_count;
    const invoked_header *headers;
    size_t header_count;
    /* Items of the channel that were left out right before this one. */
    uint64_t lagged;
    /* Whether the body is in shared memory. */
    bool is_shared;
} invoked_message;

/* Frees a message and gives lent memory back. NULL is allowed. */
void invoked_message_free(invoked_message *message);

/* ---------------------------------------------------------------- calls */
/* Waits for ever: a timeout. */
#define INVOKED_FOREVER UINT64_MAX

/* A channel that a call declares. In a JSON body channel N stands as the string "__CHANNEL__:N". */
typedef struct invoked_channel {
    /* 1 or more, once in a call. */
    uint32_t index;
    /* INVOKED_DIRECTION_DOWN: items come here; INVOKED_DIRECTION_UP: they are sent from here. */
    enum invoked_direction direction;
    /* Bytes of items that may wait here unread; 0 for 256 KiB. */
    uint64_t window;
    /* What the sender does when they do: INVOKED_OVERFLOW_BLOCK (0) waits. */
    enum invoked_overflow overflow;
} invoked_channel;

typedef struct invoked_request {
    const char *command;
    invoked_content content;
    const invoked_header *headers;
    size_t header_count;
    const invoked_channel *channels;
    size_t channel_count;
    /* Milliseconds until the answer is whole, told to the daemon and kept here; 0 for 30 s; INVOKED_FOREVER. */
    uint64_t timeout_ms;
    /* Running the call twice is running it once. */
    bool idempotent;
    /* Bodies are shown to no monitor. */
    bool sensitive;
} invoked_request;

/* Calls a command with a JSON text (NULL for no body) and waits for its result, at most 30 seconds. On success `*reply` is
 * the result; on -EREMOTEIO the message of the command's own error; else NULL. `reply` and `error` may be NULL. */
int invoked_invoke(invoked_client *client, const char *command, const char *json, invoked_message **reply,
                   invoked_error *error);

/* The same with everything that a call can have, but channels. */
int invoked_do(invoked_client *client, const invoked_request *request, invoked_message **reply, invoked_error *error);

/* Opens a call and does not wait: some of it may be sent later, by whatever waits or drives. Fails with -EBUSY while as many
 * calls or channels are open as the daemon allows, -EMSGSIZE for a message above its limit, -EINVAL, -ENOTCONN. */
int invoked_begin(invoked_client *client, const invoked_request *request, invoked_call **call);

/* Whether invoked_wait would return at once. */
bool invoked_is_done(const invoked_call *call);

/* Waits for the answer, as invoked_invoke. Later calls of it give the same error and no message. */
int invoked_wait(invoked_call *call, invoked_message **reply, invoked_error *error);

/* Asks the daemon to stop a call, or the channels of one that is answered. The call still ends by its answer, mostly
 * -ECANCELED; one of which nothing was sent ends so at once. */
int invoked_cancel(invoked_call *call);

/* Cancels a call that is still open, with its channels, and frees it. NULL is allowed. */
void invoked_call_free(invoked_call *call);

/* ---------------------------------------------------------------- channels */
/* Waits for the next item of a channel: 1 with `*item`; 0 once it has ended well and all items are read; -EAGAIN when the
 * time is over (`timeout_ms` 0: at once); else the error with which it ended. */
int invoked_next(invoked_call *call, uint32_t channel, uint64_t timeout_ms, invoked_message **item,
                 invoked_error *error);

/* Sends an item, waiting while its receiver takes no more: -EAGAIN when the time is over, -EPIPE when the receiver wants
 * no more items or the channel has ended. */
int invoked_send(invoked_call *call, uint32_t channel, const invoked_content *item, uint64_t timeout_ms);

/* Ends a channel whose items are sent from here, after what was sent. */
int invoked_end(invoked_call *call, uint32_t channel);

/* Wants no more items of a channel that come here; those that are here are dropped. */
int invoked_stop(invoked_call *call, uint32_t channel);

/* ---------------------------------------------------------------- a loop of the program's own */
/* The socket, to wait for; it changes with invoked_reconnect. -1 when there is none. */
int invoked_fd(const invoked_client *client);

/* For what to wait: POLLIN, POLLOUT or both. */
short invoked_events(const invoked_client *client);

/* Milliseconds until invoked_drive has something to do without an event: -1 for none, as poll takes it. */
int invoked_timeout(const invoked_client *client);

/* Writes and reads what is possible without waiting, and ends calls whose time is over. 0, or -ECONNRESET once the
 * connection is lost: then all calls are done. */
int invoked_drive(invoked_client *client);

/* Why the connection was lost; empty while it wasn't. */
const char *invoked_problem(const invoked_client *client);

/* ---------------------------------------------------------------- JSON */
/* A JSON value inside a text that was checked; it belongs to the text. */
typedef struct invoked_json {
    const char *text;
    size_t len;
} invoked_json;

enum invoked_json_kind {
    INVOKED_JSON_NULL,
    INVOKED_JSON_BOOL,
    INVOKED_JSON_NUMBER,
    INVOKED_JSON_STRING,
    INVOKED_JSON_ARRAY,
    INVOKED_JSON_OBJECT,
};

/* Checks a whole text (RFC 8259, UTF-8, no lone surrogates, at most 128 deep): 0 or -EBADMSG. */
int invoked_json_parse(const void *text, size_t len, invoked_json *value);
enum invoked_json_kind invoked_json_kind(invoked_json value);

/* The value of a key: -ENOENT if it isn't there, -EBADMSG if it is there twice, -EINVAL of what is no object. */
int invoked_json_get(invoked_json object, const char *key, invoked_json *value);

/* Goes through an array or an object: set `*at` to NULL before. `key` may be NULL; it is a string in quotes. */
bool invoked_json_next(invoked_json of, const char **at, invoked_json *key, invoked_json *value);

/* Exact integers: -ERANGE of what doesn't fit, -EINVAL of what is no integer. */
int invoked_json_u64(invoked_json value, uint64_t *number);
int invoked_json_i64(invoked_json value, int64_t *number);
int invoked_json_double(invoked_json value, double *number);
int invoked_json_bool(invoked_json value, bool *truth);

/* The text of a string, with a NUL behind it: its length, -ENOSPC if it doesn't fit `size`, -EINVAL of what is none. */
long invoked_json_string(invoked_json value, char *text, size_t size);

/* Whether a string is this text. */
bool invoked_json_is(invoked_json value, const char *text);

/* Writes UTF-8 text as a JSON string, quotes and a NUL included: its length without the NUL, -ENOSPC, or -EINVAL of what is
 * not UTF-8. */
long invoked_json_quote(const char *text, char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif

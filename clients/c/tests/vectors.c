/* Every vector that a client can show: records, frames, prefaces, malformed and legal input, whole sessions.
 * Usage: vectors DIRECTORY, that of proto/vectors. */
#include "vector.h"

static size_t sessions_run, sessions_by_hand;

static void check_record(invoked_json one, const char *name, const char *kind)
{
    (void)kind;
    iv_record record;
    iv_error error = {.what = IV_OK};
    enum iv_schema_id id = schema_of(text_of(at(one, "record")));
    iv_buf bytes = bulk(at(one, "hex")), encoded = encode_record(id, at(one, "fields")), fields = {0};
    if ((error.record = iv_decode(id, bytes.p, bytes.len, &record, &error)) != IV_RECORD_OK) {
        char text[100];
        iv_record_text(&error, text, sizeof text);
        fail(name, "decode", "a record", text);
    } else {
        put_record(&fields, &record);
        same_json(name, "fields", at(one, "fields"), &fields);
    }
    same_bytes(name, "encoded", &bytes, encoded.p, encoded.len);
    iv_buf_free(&bytes);
    iv_buf_free(&encoded);
    iv_buf_free(&fields);
}

/* ---------------------------------------------------------------- a connection under test */

typedef struct world {
    iv_conn c;
    iv_buf events;
    size_t count;
    iv_error error;
} world;

static void put_fields(iv_buf *out, const char *key, const iv_record *record)
{
    put_format(out, ",\"%s\":", key);
    put_record(out, record);
}

static void put_payload(iv_buf *out, const iv_event *e)
{
    put_format(out, ",\"payload\":");
    put_bulk(out, e->payload, e->len);
    put_format(out, ",\"more\":\"%s\"", e->follows ? "follows" : "whole");
}

static void tell(void *to, iv_event *e)
{
    static const char *const names[] = {"Welcomed", "Refused", "Replied", "Failed", "Continued", "ItemCame", "ItemContinued",
                                        "ChannelEnded", "ChannelStopped", "ChannelCredited", "SegmentCame", "SegmentGone",
                                        "LanesTold", "WentAway", "Ponged"};
    world *w = to;
    iv_buf *out = &w->events;
    put_format(out, "%s{\"event\":\"%s\"", w->count++ > 0 ? "," : "", names[e->kind]);
    if (e->stream != 0)
        put_format(out, ",\"stream\":%" PRIu64, e->stream);
    if (e->channel != 0)
        put_format(out, ",\"channel\":%u", e->channel);
    if (e->kind == IV_REFUSED || e->kind == IV_FAILED || e->kind == IV_WENT_AWAY || e->kind == IV_CHANNEL_ENDED)
        put_format(out, e->has_code ? ",\"code\":\"%s\"" : ",\"code\":null", invoked_code_name(e->code));
    switch (e->kind) {
    case IV_WELCOMED: put_fields(out, "welcome", e->record); break;
    case IV_REFUSED: put_format(out, ",\"reason\":"); put_string(out, e->payload, e->len); break;
    case IV_REPLIED: case IV_FAILED: case IV_ITEM_CAME:
        put_fields(out, e->kind == IV_REPLIED ? "reply" : e->kind == IV_FAILED ? "failure" : "item", e->record);
        put_payload(out, e);
        put_format(out, ",\"fds\":%zu", e->nfds);
        if (e->kind == IV_ITEM_CAME)
            put_format(out, ",\"credit\":%" PRIu64, e->credit);
        break;
    case IV_ITEM_CONTINUED: put_format(out, ",\"credit\":%" PRIu64, e->credit); put_payload(out, e); break;
    case IV_CONTINUED: put_payload(out, e); break;
    case IV_CHANNEL_ENDED:
        put_format(out, ",\"message\":");
        put_string(out, e->payload, e->len);
        if (e->lagged > 0)
            put_format(out, ",\"lagged\":%" PRIu64, e->lagged);
        break;
    case IV_SEGMENT_CAME: put_fields(out, "segment", e->record); break;
    case IV_SEGMENT_GONE: put_format(out, ",\"segment\":%u,\"generation\":%u", e->segment->number, e->segment->generation); break;
    case IV_LANES_TOLD: {
        iv_reader r = iv_list(&e->record->f[0]);
        iv_element lane;
        put_format(out, ",\"lanes\":[");
        for (bool first = true; iv_each(&r, IV_U8S, &lane); first = false)
            put_format(out, "%s%" PRIu64, first ? "" : ",", lane.a);
        put_format(out, "]");
        break;
    }
    case IV_WENT_AWAY: put_fields(out, "notice", e->record); break;
    case IV_PONGED: put_format(out, ",\"nonce\":%u", e->code); break;
    default: break;
    }
    put_format(out, "}");
}

static world *world_of(uint64_t features, uint32_t max_frame, uint64_t instance, const iv_buf *hello)
{
    world *w = calloc(1, sizeof *w);
    w->c.tell = tell;
    w->c.to = w;
    if (iv_conn_begin(&w->c, features, max_frame, instance, hello) != 0)
        stop("no connection", "");
    return w;
}

static void world_free(world *w)
{
    iv_conn_free(&w->c);
    iv_buf_free(&w->events);
    free(w);
}

/* Gives bytes in reads of `step`, each in memory of its own, with file descriptors on the first. */
static void give(world *w, const uint8_t *bytes, size_t len, size_t fds, size_t step)
{
    for (size_t i = 0; i < fds; i++)
        w->c.fds[w->c.fd_count++] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (size_t from = 0; from < len && w->error.what == IV_OK && w->c.state != IV_CLOSED; from += step) {
        iv_put(&w->c.in, bytes + from, len - from < step ? len - from : step);
        w->error = iv_conn_process(&w->c);
    }
}

static iv_buf output(world *w)
{
    iv_buf out = {0};
    while (iv_conn_fill(&w->c, &out))
        ;
    return out;
}

static void forget(world *w)
{
    iv_buf out = output(w);
    iv_buf_free(&out);
    w->events.len = w->count = 0;
}

static bool same_events(world *w, const char *name, invoked_json wanted)
{
    iv_buf list = {0};
    put_format(&list, "[");
    iv_put(&list, w->events.p, w->events.len);
    put_format(&list, "]");
    w->events.len = w->count = 0;
    bool same = same_json(name, "events", wanted, &list);
    iv_buf_free(&list);
    return same;
}

static const char least_hello[] = "\0\0\0\0\0\0\0";

static iv_buf plain_hello(void)
{
    iv_buf hello = {0};
    iv_put(&hello, least_hello, 7);
    return hello;
}

static void give_preface(world *w, uint32_t max_frame, uint64_t features, uint64_t instance)
{
    uint8_t preface[INVOKED_PREFACE_LEN] = INVOKED_MAGIC;
    iv_store(preface + 8, 1, 2);
    iv_store(preface + 10, 1, 2);
    iv_store(preface + 12, max_frame, 4);
    iv_store(preface + 16, features, 8);
    iv_store(preface + 24, instance, 8);
    give(w, preface, sizeof preface, 0, SIZE_MAX);
}

static void give_frame(world *w, uint8_t kind, uint64_t stream, uint8_t codec, uint16_t flags, const void *meta, size_t len,
                       const void *payload, size_t payload_len)
{
    iv_buf frame = {0}, record = {0};
    iv_put(&record, meta, len);
    iv_frame(&frame, kind, stream, 0, flags, &record);
    frame.p[5] = codec;
    iv_store(frame.p, len + payload_len, 4);
    iv_put(&frame, payload, payload_len);
    give(w, frame.p, frame.len, 0, SIZE_MAX);
    iv_buf_free(&frame);
    iv_buf_free(&record);
}

static void call_ab(world *w, bool channels)
{
    invoked_channel declared[] = {{.index = 1, .direction = INVOKED_DIRECTION_DOWN, .window = 1000},
                                  {.index = 2, .direction = INVOKED_DIRECTION_UP}};
    iv_ask ask = {.command = "a.b", .channels = declared, .channel_count = channels ? 2 : 0};
    invoked_content none = {.codec = INVOKED_CODEC_NONE};
    iv_buf parts = {0}, bytes = {0};
    iv_encode_content(&none, 0, &parts, &bytes);
    if (iv_conn_call(&w->c, &ask, &parts, &bytes, NULL) != 1)
        stop("no call", "");
    iv_buf_free(&parts);
    iv_buf_free(&bytes);
    forget(w);
}

static void lead_to(world *w, const char *after, uint64_t features)
{
    static const char *const order[] = {"start", "preface", "greeted", "open", "called", "half", "ended", "draining", "channels", "taking"};
    int stage = 0;
    while (strcmp(order[stage], after) != 0)
        stage++;
    if (stage >= 1)
        give_preface(w, (uint32_t)INVOKED_MAX_FRAME, features, 0);
    if (stage >= 3)
        give_frame(w, INVOKED_FRAME_WELCOME, 0, 0, 0, "\0\0\0\0\0", 5, NULL, 0);
    if (stage >= 4)
        call_ab(w, strcmp(after, "channels") == 0);
    if (strcmp(after, "taking") == 0)
        give_frame(w, INVOKED_FRAME_LANES, 0, 0, 0, "\3\1\2\3\0", 5, NULL, 0);
    if (strcmp(after, "half") == 0)
        give_frame(w, INVOKED_FRAME_RESULT, 1, INVOKED_CODEC_RAW, INVOKED_FLAG_MORE, "\0\1\1\10\0\0", 6, "\1\2\3", 3);
    if (strcmp(after, "ended") == 0)
        give_frame(w, INVOKED_FRAME_RESULT, 1, INVOKED_CODEC_NONE, 0, "\0\1\0\0\0\0", 6, NULL, 0);
    if (w->error.what != IV_OK)
        stop("can't be led to", after);
    forget(w);
}

static size_t open_fds(void)
{
    size_t count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void check_answer(world *w, invoked_json one, const char *name)
{
    char error[200];
    iv_buf out = output(w);
    const char *answer = w->c.state != IV_CLOSED ? "none" : "close";
    uint32_t said = 0;
    for (size_t from = 0; from + INVOKED_HEADER_LEN <= out.len; from += INVOKED_HEADER_LEN + iv_load(out.p + from, 4)) {
        if (w->c.state == IV_CLOSED && memcmp(out.p + from, "\x89INVK", 5) == 0)
            from += INVOKED_PREFACE_LEN; /* nothing was taken of what it said at first */
        if (w->c.state == IV_CLOSED && out.p[from + 4] == INVOKED_FRAME_GOAWAY) {
            answer = "goaway";
            said = (uint32_t)iv_load(out.p + from + 20, 4);
        }
    }
    iv_buf_free(&out);
    if (!invoked_json_is(at(one, "answer"), answer))
        fail(name, "answer", text_of(at(one, "answer")), answer);
    iv_error_text(&w->error, error, sizeof error);
    bool is_legal = invoked_json_kind(at(one, "error")) == INVOKED_JSON_NULL;
    if (w->error.what == IV_OK || is_legal) {
        if (!is_legal || w->error.what != IV_OK)
            fail(name, "error", is_legal ? "none" : text_of(at(one, "error")), error);
        return;
    }
    const char *code = invoked_code_name(iv_fault_code(w->error.what));
    if (!invoked_json_is(at(one, "code"), code) || (said != 0 && said != iv_fault_code(w->error.what)))
        fail(name, "code", text_of(at(one, "code")), code);
    /* Which rule of file descriptors a peer breaks first depends on what came with them. */
    if (number(at(one, "fds")) == 0 && !invoked_json_is(at(one, "error"), error))
        fail(name, "error", text_of(at(one, "error")), error);
}

static void check_client_input(invoked_json one, const char *name)
{
    iv_buf bytes = bulk(at(one, "hex"));
    uint64_t features = features_of(at(one, "features"));
    size_t steps[] = {SIZE_MAX, 4096, 23, 1};
    size_t before = open_fds();
    for (size_t i = 0; i < (bytes.len > 4096 ? 2 : 4); i++) {
        iv_buf hello = plain_hello();
        world *w = world_of(features, (uint32_t)INVOKED_MAX_FRAME, 0, &hello);
        iv_buf_free(&hello);
        if (strcmp(text_of(at(one, "after")), "start") == 0)
            forget(w);
        lead_to(w, text_of(at(one, "after")), features);
        give(w, bytes.p, bytes.len, number(at(one, "fds")), steps[i]);
        if (number(at(one, "fds")) == 0 || i == 0)
            same_events(w, name, at(one, "events"));
        check_answer(w, one, name);
        if (open_fds() != before)
            fail(name, "file descriptors", "all closed", "some open");
        world_free(w);
    }
    iv_buf_free(&bytes);
}

/* Input to a daemon: what a frame and its record can break alone breaks here the same. */
static void check_daemon_input(invoked_json one, const char *name)
{
    iv_buf bytes = bulk(at(one, "hex"));
    const char *after = text_of(at(one, "after"));
    bool early = strcmp(after, "start") == 0 || strcmp(after, "preface") == 0;
    bool is_legal = invoked_json_kind(at(one, "error")) == INVOKED_JSON_NULL;
    const char *wanted = is_legal ? "" : text_of(at(one, "error"));
    unsigned max_fds = features_of(at(one, "features")) & INVOKED_FEATURE_ATTACHED_FDS ? 16 : 0;
    iv_error error = {.what = IV_OK};
    size_t from = strcmp(after, "start") == 0 ? INVOKED_PREFACE_LEN : 0;
    while (from + INVOKED_HEADER_LEN <= bytes.len && error.what == IV_OK) {
        iv_header h;
        iv_record record;
        error = iv_header_read(bytes.p + from, early ? 4040 : (uint32_t)INVOKED_MAX_FRAME, max_fds, &h);
        early = early && h.kind != INVOKED_FRAME_HELLO;
        size_t whole = from + INVOKED_HEADER_LEN + h.len;
        if (error.what != IV_OK || whole > bytes.len)
            break;
        if (h.kind < 0x80)
            error = iv_check_shape(&h);
#define RECORD(frame, text, rule, of, reserved) \
        if (error.what == IV_OK && h.kind == INVOKED_FRAME_##frame && *(of) != 0 && !(h.flags & INVOKED_FLAG_CONT)) { \
            iv_frame_in f = {.h = h, .metadata = bytes.p + from + INVOKED_HEADER_LEN}; \
            error = iv_read_record(h.kind == INVOKED_FRAME_DATA && (h.flags & INVOKED_FLAG_END) ? IV_END : schema_of(of), &f, &record); \
        }
        INVOKED_FRAMES(RECORD)
#undef RECORD
        from = whole;
    }
    char found[200];
    iv_error_text(&error, found, sizeof found);
    bool alone = strncmp(wanted, "Decode(", 7) == 0 && strstr(wanted, "Fds") == NULL && strstr(wanted, "BadMagic") == NULL;
    if (alone ? strcmp(found, wanted) != 0 : is_legal && error.what != IV_OK)
        fail(name, "error of a frame alone", wanted, found);
    iv_buf_free(&bytes);
}

static size_t to_client;

static void check_input(invoked_json one, const char *name, const char *kind)
{
    (void)kind;
    if (invoked_json_is(at(one, "to"), "client")) {
        to_client++;
        check_client_input(one, name);
    } else {
        check_daemon_input(one, name);
    }
}

/* ---------------------------------------------------------------- frames and prefaces */

static void check_preface(invoked_json one, const char *name)
{
    invoked_json preface = at(one, "preface"), refusal = at(one, "refusal");
    iv_buf bytes = bulk(at(one, "hex")), hello = plain_hello();
    uint64_t features = number(at(preface, "features")), instance = number(at(preface, "instance"));
    uint64_t low = number(at(preface, "version_min")), high = number(at(preface, "version_max"));
    uint32_t max_frame = (uint32_t)number(at(preface, "max_frame"));
    world *w = world_of(features, max_frame, instance, &hello);
    if (low == INVOKED_WIRE_VERSION && high == low) {
        same_bytes(name, "preface", &bytes, w->c.control.p, INVOKED_PREFACE_LEN);
        give(w, bytes.p, bytes.len, 0, 5);
        if (w->error.what != IV_OK || w->c.remote_max_frame != (max_frame < INVOKED_MAX_FRAME_CEILING ? max_frame : INVOKED_MAX_FRAME_CEILING) || w->c.remote_features != features || w->c.instance != instance)
            fail(name, "read", "its fields", "others");
    } else if (invoked_json_kind(refusal) != INVOKED_JSON_NULL) {
        give(w, bytes.p, bytes.len, 0, 5);
        iv_buf told = {0};
        put_format(&told, "[{\"event\":\"Refused\",\"code\":\"%s\",\"reason\":", text_of(at(refusal, "code")));
        iv_put(&told, at(refusal, "reason").text, at(refusal, "reason").len);
        put_format(&told, "}]");
        invoked_json wanted;
        if (invoked_json_parse(told.p, told.len, &wanted) == 0)
            same_events(w, name, wanted);
        iv_buf_free(&told);
    } else {
        give(w, bytes.p, bytes.len, 0, 5);
        if (w->error.what != IV_BAD_PREFACE)
            fail(name, "a version that was not offered", "BadPreface", "something else");
    }
    world_free(w);
    iv_buf_free(&bytes);
    iv_buf_free(&hello);
}

static void check_frame(invoked_json one, const char *name, const char *kind)
{
    if (strcmp(kind, "prefaces") == 0) {
        check_preface(one, name);
        return;
    }
    invoked_json header = at(one, "header"), record = at(one, "record");
    iv_buf bytes = bulk(at(one, "hex")), payload = bulk(at(one, "payload")), found = {0};
    iv_header h;
    uint8_t again[INVOKED_HEADER_LEN];
    iv_error error = iv_header_read(bytes.p, UINT32_MAX, 16, &h);
    const char *kind_name = iv_kind_name(h.kind);
    char raw[8];
    snprintf(raw, sizeof raw, "0x%02x", h.kind);
    iv_header_write(&h, again);
    if (error.what != IV_OK || memcmp(again, bytes.p, sizeof again) != 0 || flags_of(at(header, "flags")) != h.flags ||
        number(at(header, "len")) != h.len || number(at(header, "stream")) != h.stream ||
        number(at(header, "meta_len")) != h.meta_len || number(at(header, "nfds")) != h.nfds ||
        number(at(header, "arg")) != h.arg || !invoked_json_is(at(header, "codec"), codec_name(h.codec)) ||
        !(invoked_json_is(at(header, "kind"), kind_name) || invoked_json_is(at(header, "kind"), raw)))
        fail(name, "header", "as written", "something else");
    if (h.kind < 0x80 && iv_check_shape(&h).what != IV_OK)
        fail(name, "shape", "legal", "not");
    if (invoked_json_kind(record) != INVOKED_JSON_NULL) {
        iv_frame_in f = {.h = h, .metadata = bytes.p + INVOKED_HEADER_LEN};
        iv_record fields;
        if (iv_read_record(schema_of(text_of(at(record, "record"))), &f, &fields).what != IV_OK)
            fail(name, "record", "legal", "not");
        put_record(&found, &fields);
        same_json(name, "record", at(record, "fields"), &found);
    }
    size_t head = INVOKED_HEADER_LEN + h.meta_len;
    same_bytes(name, "payload", &payload, bytes.p + head, bytes.len - head);
    iv_buf_free(&bytes);
    iv_buf_free(&payload);
    iv_buf_free(&found);
}

/* ---------------------------------------------------------------- sessions */

static void content_of(invoked_json message, iv_buf *parts, iv_buf *bytes, uint8_t *codec)
{
    iv_buf bodies[17] = {{0}};
    invoked_bytes attachments[16];
    const char *it = NULL;
    invoked_json one;
    invoked_content content = {.codec = (enum invoked_codec)codec_number(text_of(at(message, "codec"))), .attachments = attachments};
    bodies[16] = bulk(at(message, "body"));
    content.body = (invoked_bytes){bodies[16].p, bodies[16].len};
    while (invoked_json_next(at(message, "attachments"), &it, NULL, &one)) {
        bodies[content.attachment_count] = bulk(one);
        attachments[content.attachment_count] = (invoked_bytes){bodies[content.attachment_count].p, bodies[content.attachment_count].len};
        content.attachment_count++;
    }
    if (iv_encode_content(&content, INVOKED_MAX_MESSAGE, parts, bytes) != 0)
        stop("no content", "");
    *codec = (uint8_t)content.codec;
    for (size_t i = 0; i < 17; i++)
        iv_buf_free(&bodies[i]);
}

static void act_call(world *w, invoked_json act)
{
    invoked_header headers[64];
    invoked_channel channels[16];
    iv_ask ask = {.command = text_of(at(act, "command")), .headers = headers, .channels = channels, .flags = flags_of(at(act, "flags"))};
    iv_buf parts = {0}, bytes = {0};
    invoked_json one, declared, deadline = at(act, "deadline_us");
    for (const char *it = NULL; invoked_json_next(at(act, "headers"), &it, NULL, &one);) {
        const char *pair = NULL;
        invoked_json text;
        invoked_json_next(one, &pair, NULL, &text);
        headers[ask.header_count].key = strdup(text_of(text));
        invoked_json_next(one, &pair, NULL, &text);
        headers[ask.header_count++].value = strdup(text_of(text));
    }
    if (invoked_json_get(act, "channels", &declared) == 0)
        for (const char *it = NULL; invoked_json_next(declared, &it, NULL, &one);)
            channels[ask.channel_count++] = (invoked_channel){.index = (uint32_t)number(at(one, "index")), .window = number(at(one, "credit")),
                .direction = (enum invoked_direction)direction_number(text_of(at(one, "direction")))};
    if ((ask.has_deadline = invoked_json_kind(deadline) != INVOKED_JSON_NULL))
        ask.deadline_us = number(deadline);
    content_of(at(act, "message"), &parts, &bytes, &ask.codec);
    if (iv_conn_call(&w->c, &ask, &parts, &bytes, NULL) < 0)
        stop("no call", ask.command);
    for (size_t i = 0; i < ask.header_count; i++) {
        free((char *)headers[i].key);
        free((char *)headers[i].value);
    }
    iv_buf_free(&parts);
    iv_buf_free(&bytes);
}

static uint32_t code_of(invoked_json name)
{
    uint32_t found = INVOKED_CODE_APPLICATION;
#define NAMES(code, text, retryable) found = invoked_json_is(name, text) ? (code) : found;
    INVOKED_CODES(NAMES)
#undef NAMES
    return found;
}

static void perform(world *w, invoked_json act)
{
    invoked_json what, in;
    const char *it = NULL;
    if (invoked_json_kind(act) == INVOKED_JSON_STRING || !invoked_json_next(act, &it, &what, &in))
        return;
    const char *name = text_of(what);
    if (strcmp(name, "call") == 0) {
        act_call(w, in);
    } else if (strcmp(name, "ping") == 0) {
        iv_control(&w->c, INVOKED_FRAME_PING, 0, (uint32_t)number(at(in, "nonce")));
    } else if (strcmp(name, "cancel") == 0) {
        iv_conn_cancel(&w->c, number(at(in, "stream")));
    } else if (strcmp(name, "connect") != 0 && strcmp(name, "nothing") != 0) {
        uint64_t stream = number(at(in, "stream"));
        uint32_t channel = (uint32_t)number(at(in, "channel"));
        iv_buf parts = {0}, bytes = {0};
        uint8_t codec;
        if (strcmp(name, "item") == 0) {
            content_of(at(in, "message"), &parts, &bytes, &codec);
            if (iv_conn_send(&w->c, stream, channel, &parts, &bytes) != 0)
                stop("no item", name);
        } else if (strcmp(name, "end") == 0) {
            iv_conn_end(&w->c, stream, channel, code_of(at(in, "code")), text_of(at(in, "message")));
        } else if (strcmp(name, "stop") == 0) {
            iv_conn_stop(&w->c, stream, channel);
        } else if (strcmp(name, "consume") == 0) {
            iv_conn_give_credit(&w->c, stream, channel, number(at(in, "credit")));
        } else {
            stop("no such act", name);
        }
        iv_buf_free(&parts);
        iv_buf_free(&bytes);
    }
}

static void check_session(invoked_json one, const char *name, const char *kind)
{
    (void)kind;
    invoked_json step, act, client = at(one, "client"), features;
    iv_buf hello = plain_hello();
    bool by_hand = false;
    for (const char *it = NULL; invoked_json_next(at(one, "steps"), &it, NULL, &step);) {
        bool any = false;
        for (const char *acts = NULL; invoked_json_next(at(step, "do"), &acts, NULL, &act); any = true) {
            invoked_json connect;
            if (invoked_json_get(act, "connect", &connect) == 0) {
                iv_buf_free(&hello);
                hello = encode_record(IV_HELLO, at(connect, "hello"));
            }
        }
        by_hand |= !any && invoked_json_is(at(step, "from"), "client");
    }
    if (by_hand) {
        sessions_by_hand++;
        iv_buf_free(&hello);
        return;
    }
    sessions_run++;
    uint64_t bits = invoked_json_get(client, "features", &features) == 0 ? features_of(features) : 0;
    world *w = world_of(bits, (uint32_t)number(at(client, "max_frame")), number(at(client, "instance")), &hello);
    for (const char *it = NULL; invoked_json_next(at(one, "steps"), &it, NULL, &step);) {
        iv_buf bytes = bulk(at(step, "hex"));
        if (invoked_json_is(at(step, "from"), "client")) {
            for (const char *acts = NULL; invoked_json_next(at(step, "do"), &acts, NULL, &act);)
                perform(w, act);
            iv_buf out = output(w);
            same_bytes(name, "what the client says", &bytes, out.p, out.len);
            iv_buf_free(&out);
        } else {
            give(w, bytes.p, bytes.len, 0, SIZE_MAX);
            same_events(w, name, at(step, "events"));
        }
        iv_buf_free(&bytes);
    }
    if (iv_conn_has_output(&w->c) || w->c.calls != 0 || w->c.channels != 0)
        fail(name, "the end", "nothing open or unsent", "something");
    world_free(w);
    iv_buf_free(&hello);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        stop("usage", "vectors DIRECTORY");
    size_t records = each_case(argv[1], "records", check_record);
    size_t frames = each_case(argv[1], "frames", check_frame);
    size_t inputs = each_case(argv[1], "malformed", check_input);
    each_case(argv[1], "sessions", check_session);
    printf("%zu records, %zu frames and prefaces, %zu inputs (%zu to a client), %zu sessions (%zu more by hand): %zu failures\n",
           records, frames, inputs, to_client, sessions_run, sessions_by_hand, failures);
    return failures > 0 || records < 50 || inputs < 150 || to_client < 50 || sessions_run < 15;
}

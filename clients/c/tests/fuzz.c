/* Input of vectors, changed at random from a seed, to a client in each of its states: no rule of memory may break, and a
 * client that is closed says so. Usage: fuzz DIRECTORY COUNT [SEED]. LLVMFuzzerTestOneInput is for a fuzzer, without main:
 * build with -DINVOKED_FUZZER. */
#include "vector.h"

static void ignore(void *to, iv_event *event)
{
    (void)to;
    iv_buf text = {0};
    if (event->record != NULL && event->len < 4096)
        put_hex(&text, event->payload, event->len);
    iv_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses the features, the second how the input is split. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    iv_conn *c = calloc(1, sizeof *c);
    iv_buf hello = {0}, parts = {0}, bytes = {0}, out = {0};
    invoked_channel declared[] = {{.index = 1, .direction = INVOKED_DIRECTION_DOWN, .window = 1000}, {.index = 2, .direction = INVOKED_DIRECTION_UP}};
    iv_ask ask = {.command = "a.b", .channels = declared};
    invoked_content none = {.codec = INVOKED_CODEC_NONE};
    if (c == NULL || size < 2)
        goto end;
    c->tell = ignore;
    iv_put(&hello, "\0\0\0\0\0\0\0", 7);
    if (iv_conn_begin(c, data[0] & 0x1f, (uint32_t)INVOKED_MAX_FRAME, 0, &hello) != 0)
        abort();
    size_t step = 1 + data[1];
    bool called = false;
    for (size_t from = 2; from < size && c->state != IV_CLOSED; from += step) {
        iv_put(&c->in, data + from, size - from < step ? size - from : step);
        iv_error error = iv_conn_process(c);
        if ((error.what != IV_OK) != (error.what != IV_OK && c->state == IV_CLOSED))
            abort();
        while (iv_conn_fill(c, &out))
            out.len = 0;
        if (c->welcomed && !called && c->state != IV_CLOSED) {
            called = true;
            ask.channel_count = iv_has(c, INVOKED_FEATURE_CHANNELS) ? 2 : 0;
            for (int i = 0; i < 2; i++, ask.channel_count = 0) {
                iv_encode_content(&none, 0, &parts, &bytes);
                (void)iv_conn_call(c, &ask, &parts, &bytes, NULL);
                parts.len = 0;
            }
        }
    }
    iv_conn_give_credit(c, 1, 1, 256);
    iv_conn_cancel(c, 1);
    while (iv_conn_fill(c, &out))
        out.len = 0;
    iv_conn_free(c);
end:
    iv_buf_free(&hello);
    iv_buf_free(&parts);
    iv_buf_free(&bytes);
    iv_buf_free(&out);
    free(c);
    return 0;
}

#ifndef INVOKED_FUZZER
static uint64_t seed = 88172645463325252u;
static iv_buf inputs[512];
static size_t input_count;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* What comes to a client that has called: prefaces, a welcome, and the case's own bytes. */
static void keep(invoked_json one, const char *name, const char *kind)
{
    invoked_json steps, step;
    (void)name;
    if (input_count == 512 || (strcmp(kind, "malformed") != 0 && strcmp(kind, "sessions") != 0))
        return;
    iv_buf *in = &inputs[input_count++];
    uint8_t preface[INVOKED_PREFACE_LEN] = INVOKED_MAGIC;
    preface[8] = preface[10] = 1;
    iv_store(preface + 12, INVOKED_MAX_FRAME, 4);
    preface[16] = 0x1f;
    iv_put(in, "\x1f\xff", 2);
    if (invoked_json_get(one, "steps", &steps) == 0) {
        for (const char *it = NULL; invoked_json_next(steps, &it, NULL, &step);) {
            iv_buf bytes = bulk(at(step, "hex"));
            if (invoked_json_is(at(step, "from"), "daemon"))
                iv_put(in, bytes.p, bytes.len < 4096 ? bytes.len : 4096);
            iv_buf_free(&bytes);
        }
        return;
    }
    iv_buf bytes = bulk(at(one, "hex"));
    iv_put(in, preface, sizeof preface);
    iv_put(in, "\5\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\0\0\0\0\0", 29);
    iv_put(in, bytes.p, bytes.len < 4096 ? bytes.len : 4096);
    iv_buf_free(&bytes);
}

static void mutate(iv_buf *input)
{
    static const uint8_t marks[] = {0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff};
    for (uint64_t times = next_random() % 6; times > 0 && input->len > 2; times--) {
        size_t where = next_random() % input->len;
        switch (next_random() % 4) {
        case 0: input->p[where] ^= (uint8_t)(1u << next_random() % 8); break;
        case 1: input->p[where] = marks[next_random() % sizeof marks]; break;
        case 2: input->len = where + 1; break;
        default: {
            const iv_buf *other = &inputs[next_random() % input_count];
            size_t from = next_random() % other->len;
            iv_put(input, other->p + from, other->len - from);
        }
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        stop("usage", "fuzz DIRECTORY COUNT [SEED]");
    each_case(argv[1], "malformed", keep);
    each_case(argv[1], "sessions", keep);
    if (argc > 3)
        seed = strtoull(argv[3], NULL, 10) | 1;
    long count = atol(argv[2]);
    for (long i = 0; i < count; i++) {
        const iv_buf *base = &inputs[next_random() % input_count];
        iv_buf input = {0};
        iv_put(&input, base->p, base->len);
        mutate(&input);
        LLVMFuzzerTestOneInput(input.p, input.len);
        iv_buf_free(&input);
    }
    for (size_t i = 0; i < input_count; i++)
        iv_buf_free(&inputs[i]);
    printf("%ld inputs from %zu vectors\n", count, input_count);
    return 0;
}
#endif

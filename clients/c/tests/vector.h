/* What the tests of the wire share: files of vectors, records and events as vectors write them. Includes the library. */
/* Each test uses a part of it. */
#pragma GCC diagnostic ignored "-Wunused-function"

#include "../invoked.c"

#include <dirent.h>

#define NAME_MAX_LEN 128

static size_t failures;

static void fail(const char *where, const char *what, const char *wanted, const char *found)
{
    failures++;
    fprintf(stderr, "%s: %s:\n  wanted %s\n  found  %s\n", where, what, wanted, found);
}

static void stop(const char *why, const char *what)
{
    fprintf(stderr, "%s: %s\n", why, what);
    exit(2);
}

static void put_format(iv_buf *out, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    iv_put(out, text, (size_t)len);
}

static const char *as_text(iv_buf *buf)
{
    iv_put(buf, "", 1);
    buf->len--;
    return (const char *)buf->p;
}

static iv_buf read_file(const char *path)
{
    iv_buf text = {0};
    char block[65536];
    size_t len;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        stop("can't open", path);
    while ((len = fread(block, 1, sizeof block, file)) > 0)
        iv_put(&text, block, len);
    fclose(file);
    return text;
}

static invoked_json at(invoked_json of, const char *key)
{
    invoked_json value;
    if (invoked_json_get(of, key, &value) != 0)
        stop("a vector lacks", key);
    return value;
}

static uint64_t number(invoked_json value)
{
    uint64_t n = 0;
    char text[32];
    if (invoked_json_kind(value) == INVOKED_JSON_STRING && invoked_json_string(value, text, sizeof text) > 0)
        value = (invoked_json){text, strlen(text)};
    if (invoked_json_u64(value, &n) != 0)
        stop("not a number", "a vector");
    return n;
}

static const char *text_of(invoked_json value)
{
    static char texts[8][4096];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    if (invoked_json_string(value, text, sizeof texts[0]) < 0)
        stop("not a text", "a vector");
    return text;
}

static void hex_into(invoked_json value, iv_buf *out)
{
    for (size_t i = 1; i + 2 < value.len; i += 2) {
        unsigned byte;
        if (sscanf(value.text + i, "%2x", &byte) != 1)
            stop("not hexadecimal", "a vector");
        iv_put_byte(out, (uint8_t)byte);
    }
}

static iv_buf bulk(invoked_json value)
{
    iv_buf out = {0};
    const char *it = NULL;
    invoked_json piece;
    if (invoked_json_kind(value) == INVOKED_JSON_STRING)
        hex_into(value, &out);
    while (invoked_json_next(value, &it, NULL, &piece)) {
        if (invoked_json_kind(piece) == INVOKED_JSON_STRING) {
            hex_into(piece, &out);
            continue;
        }
        iv_buf once = {0};
        hex_into(at(piece, "repeat"), &once);
        for (uint64_t times = number(at(piece, "times")); times > 0; times--)
            iv_put(&out, once.p, once.len);
        iv_buf_free(&once);
    }
    return out;
}

static void put_hex(iv_buf *out, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        put_format(out, "%02x", bytes[i]);
}

/* Bytes as vectors write them: runs of 64 and more as a repeat. */
static void put_bulk(iv_buf *out, const uint8_t *bytes, size_t len)
{
    iv_buf pieces = {0};
    size_t count = 0, literal = 0;
    bool has_run = false;
    if (len == 0) {
        put_format(out, "\"\"");
        return;
    }
    for (size_t from = 0, to; from < len; from = to) {
        for (to = from; to < len && bytes[to] == bytes[from]; to++)
            ;
        if (to - from < 64)
            continue;
        has_run = true;
        if (from > literal) {
            put_format(&pieces, "%s\"", count++ > 0 ? "," : "");
            put_hex(&pieces, bytes + literal, from - literal);
            put_format(&pieces, "\"");
        }
        put_format(&pieces, "%s{\"repeat\":\"%02x\",\"times\":%zu}", count++ > 0 ? "," : "", bytes[from], to - from);
        literal = to;
    }
    if (literal < len) {
        put_format(&pieces, "%s\"", count > 0 ? "," : "");
        put_hex(&pieces, bytes + literal, len - literal);
        put_format(&pieces, "\"");
    }
    put_format(out, has_run ? "[" : "");
    iv_put(out, pieces.p, pieces.len);
    put_format(out, has_run ? "]" : "");
    iv_buf_free(&pieces);
}

static void put_big(iv_buf *out, uint64_t n)
{
    put_format(out, n < UINT64_C(1) << 53 ? "%" PRIu64 : "\"%" PRIu64 "\"", n);
}

static void put_string(iv_buf *out, const void *text, size_t len)
{
    char copy[8192], quoted[16384];
    if (len >= sizeof copy)
        stop("a text is too long for the test", "");
    memcpy(copy, text, len);
    copy[len] = 0;
    if (invoked_json_quote(copy, quoted, sizeof quoted) < 0)
        stop("not UTF-8", copy);
    iv_put(out, quoted, strlen(quoted));
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The same value always as the same text: keys sorted, no spaces. */
static void canonical(invoked_json value, iv_buf *out)
{
    char *members[64];
    size_t count = 0;
    const char *it = NULL;
    invoked_json key, element;
    enum invoked_json_kind kind = invoked_json_kind(value);
    if (kind != INVOKED_JSON_ARRAY && kind != INVOKED_JSON_OBJECT) {
        iv_put(out, value.text, value.len);
        return;
    }
    put_format(out, kind == INVOKED_JSON_ARRAY ? "[" : "{");
    while (invoked_json_next(value, &it, &key, &element)) {
        if (kind == INVOKED_JSON_ARRAY) {
            put_format(out, it != NULL && out->p[out->len - 1] != '[' ? "," : "");
            canonical(element, out);
            continue;
        }
        iv_buf member = {0};
        iv_put(&member, key.text, key.len);
        put_format(&member, ":");
        canonical(element, &member);
        (void)as_text(&member);
        if (count == 64)
            stop("too many members", "canonical");
        members[count++] = (char *)member.p;
    }
    qsort(members, count, sizeof *members, compare_keys);
    for (size_t i = 0; i < count; i++) {
        put_format(out, i > 0 ? "," : "");
        iv_put(out, members[i], strlen(members[i]));
        free(members[i]);
    }
    put_format(out, kind == INVOKED_JSON_ARRAY ? "]" : "}");
}

static bool same_json(const char *where, const char *what, invoked_json wanted, iv_buf *found)
{
    iv_buf a = {0}, b = {0};
    invoked_json value;
    const char *text = as_text(found);
    if (invoked_json_parse(text, found->len, &value) != 0)
        stop("the test wrote bad JSON", text);
    canonical(wanted, &a);
    canonical(value, &b);
    bool same = a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
    if (!same)
        fail(where, what, as_text(&a), as_text(&b));
    iv_buf_free(&a);
    iv_buf_free(&b);
    return same;
}

static void same_bytes(const char *where, const char *what, const iv_buf *wanted, const uint8_t *found, size_t len)
{
    iv_buf a = {0}, b = {0};
    if (wanted->len == len && (len == 0 || memcmp(wanted->p, found, len) == 0))
        return;
    put_hex(&a, wanted->p, wanted->len < 400 ? wanted->len : 400);
    put_hex(&b, found, len < 400 ? len : 400);
    fail(where, what, as_text(&a), as_text(&b));
    iv_buf_free(&a);
    iv_buf_free(&b);
}

#define NAMED(function, TABLE) \
    static const char *function##_name(uint64_t n) \
    { \
        TABLE(NAME_OF) return "?"; \
    } \
    static uint8_t function##_number(const char *text) \
    { \
        TABLE(NUMBER_OF) stop("no such name", text); \
        return 0; \
    }
#define NAME_OF(value, name) if (n == (value)) return name;
#define NUMBER_OF(value, name) if (strcmp(text, name) == 0) return (uint8_t)(value);
NAMED(codec, INVOKED_CODEC_NAMES)
NAMED(direction, INVOKED_DIRECTION_NAMES)
NAMED(delivery, INVOKED_DELIVERY_NAMES)
NAMED(lane, INVOKED_LANE_NAMES)

static uint64_t features_of(invoked_json names)
{
    const char *it = NULL;
    invoked_json name;
    uint64_t all = 0;
    while (invoked_json_next(names, &it, NULL, &name)) {
#define BIT(bit, text) all |= invoked_json_is(name, text) ? (bit) : 0;
        INVOKED_FEATURES(BIT)
#undef BIT
    }
    return all;
}

static uint16_t flags_of(invoked_json names)
{
    const char *it = NULL;
    invoked_json name;
    uint16_t all = 0;
    while (invoked_json_next(names, &it, NULL, &name)) {
        unsigned bit;
#define BIT(value, text) all |= (uint16_t)(invoked_json_is(name, text) ? (value) : 0);
        INVOKED_FLAGS(BIT)
#undef BIT
        if (sscanf(text_of(name), "bit %u", &bit) == 1)
            all |= (uint16_t)(1u << bit);
    }
    return all;
}

static enum iv_schema_id schema_of(const char *name)
{
    for (int id = 0; id < IV_SCHEMAS; id++)
        if (strcmp(iv_schemas[id].name, name) == 0)
            return (enum iv_schema_id)id;
    stop("no such record", name);
    return IV_SCHEMAS;
}

static void put_part(iv_buf *out, const iv_part *part)
{
    put_format(out, "{\"codec\":\"%s\",\"len\":", codec_name(part->codec));
    put_big(out, part->len);
    if (part->place == INVOKED_LANE_INLINE) {
        put_format(out, ",\"place\":\"inline\"}");
        return;
    }
    put_format(out, ",\"place\":{\"%s\":{", lane_name(part->place));
    if (part->place == INVOKED_LANE_POOL)
        put_format(out, "\"segment\":%u,\"generation\":%u,", part->segment, part->generation);
    else
        put_format(out, "\"fd\":%u%s", part->fd, part->place == INVOKED_LANE_FILE ? "," : "");
    if (part->place != INVOKED_LANE_SEALED) {
        put_format(out, "\"offset\":");
        put_big(out, part->offset);
    }
    put_format(out, "}}}");
}

static void put_element(iv_buf *out, enum iv_type type, const iv_element *e)
{
    switch (type) {
    case IV_U8S: put_format(out, "%" PRIu64, e->a); break;
    case IV_TEXTS: case IV_OPT_TEXTS: put_string(out, e->one.span, e->one.len); break;
    case IV_HEADERS:
        put_format(out, "{\"key\":");
        put_string(out, e->one.span, e->one.len);
        put_format(out, ",\"value\":");
        put_string(out, e->two.span, e->two.len);
        put_format(out, "}");
        break;
    case IV_LIMITS: put_format(out, "{\"id\":%" PRIu64 ",\"value\":", e->a); put_big(out, e->b); put_format(out, "}"); break;
    case IV_CHANNELS:
        put_format(out, "{\"index\":%" PRIu64 ",\"direction\":\"%s\",\"credit\":", e->a, direction_name(e->b));
        put_big(out, e->c);
        put_format(out, "}");
        break;
    case IV_PARTS: put_part(out, &e->part); break;
    case IV_LEASES:
        put_format(out, "{\"segment\":%" PRIu64 ",\"generation\":%" PRIu64 ",\"offset\":", e->a, e->b);
        put_big(out, e->c);
        put_format(out, "}");
        break;
    default:
        put_format(out, "{\"tag\":%" PRIu64 ",\"value\":\"", e->a);
        put_hex(out, e->one.span, e->one.len);
        put_format(out, "\"}");
    }
}

/* A decoded record as vectors write its fields. */
static void put_record(iv_buf *out, const iv_record *record)
{
    const iv_schema *schema = &iv_schemas[record->id];
    put_format(out, "{");
    for (size_t i = 0; i < IV_MAX_FIELDS && schema->fields[i].type != IV_END_OF_FIELDS; i++) {
        const iv_field *f = &record->f[i];
        enum iv_type type = schema->fields[i].type;
        put_format(out, "%s\"%s\":", i > 0 ? "," : "", schema->fields[i].name);
        if (!f->some) {
            put_format(out, "null");
        } else if (type == IV_U32 || type == IV_U64 || type == IV_OPT_U32 || type == IV_OPT_U64) {
            put_big(out, f->number);
        } else if (type == IV_BOOL) {
            put_format(out, f->number ? "true" : "false");
        } else if (type == IV_DELIVERY) {
            put_format(out, "\"%s\"", delivery_name(f->number));
        } else if (type == IV_TEXT || type == IV_OPT_TEXT) {
            put_string(out, f->span, f->len);
        } else if (type == IV_BYTES || type == IV_OPT_BYTES) {
            put_format(out, "\"");
            put_hex(out, f->span, f->len);
            put_format(out, "\"");
        } else {
            iv_reader r = iv_list(f);
            iv_element e;
            put_format(out, "[");
            for (bool first = true; iv_each(&r, type, &e); first = false) {
                put_format(out, first ? "" : ",");
                put_element(out, type, &e);
            }
            put_format(out, "]");
        }
    }
    put_format(out, "}");
}

static void encode_string(iv_buf *out, invoked_json text)
{
    const char *t = text_of(text);
    iv_put_bytes(out, t, strlen(t));
}

static void encode_hex(iv_buf *out, invoked_json hex)
{
    iv_buf bytes = {0};
    hex_into(hex, &bytes);
    iv_put_bytes(out, bytes.p, bytes.len);
    iv_buf_free(&bytes);
}

static void encode_part(iv_buf *out, invoked_json part)
{
    invoked_json place = at(part, "place"), key, in;
    const char *it = NULL;
    iv_put_byte(out, codec_number(text_of(at(part, "codec"))));
    iv_put_uint(out, number(at(part, "len")));
    if (invoked_json_kind(place) == INVOKED_JSON_STRING) {
        iv_put_uint(out, INVOKED_LANE_INLINE);
        return;
    }
    invoked_json_next(place, &it, &key, &in);
    uint8_t lane = lane_number(text_of(key));
    iv_put_uint(out, lane);
    if (lane == INVOKED_LANE_POOL) {
        iv_put_uint(out, number(at(in, "segment")));
        iv_put_uint(out, number(at(in, "generation")));
    } else {
        iv_put_byte(out, (uint8_t)number(at(in, "fd")));
    }
    if (lane != INVOKED_LANE_SEALED)
        iv_put_uint(out, number(at(in, "offset")));
}

static void encode_element(iv_buf *out, enum iv_type type, invoked_json e)
{
    switch (type) {
    case IV_U8S: iv_put_byte(out, (uint8_t)number(e)); break;
    case IV_TEXTS: case IV_OPT_TEXTS: encode_string(out, e); break;
    case IV_HEADERS: encode_string(out, at(e, "key")); encode_string(out, at(e, "value")); break;
    case IV_LIMITS: iv_put_uint(out, number(at(e, "id"))); iv_put_uint(out, number(at(e, "value"))); break;
    case IV_CHANNELS:
        iv_put_uint(out, number(at(e, "index")));
        iv_put_byte(out, direction_number(text_of(at(e, "direction"))));
        iv_put_uint(out, number(at(e, "credit")));
        break;
    case IV_PARTS: encode_part(out, e); break;
    case IV_LEASES:
        iv_put_uint(out, number(at(e, "segment")));
        iv_put_uint(out, number(at(e, "generation")));
        iv_put_uint(out, number(at(e, "offset")));
        break;
    default: iv_put_uint(out, number(at(e, "tag"))); encode_hex(out, at(e, "value"));
    }
}

/* The bytes of a record that a vector gives by its fields. */
static iv_buf encode_record(enum iv_schema_id id, invoked_json fields)
{
    const iv_schema *schema = &iv_schemas[id];
    iv_buf out = {0};
    for (size_t i = 0; i < IV_MAX_FIELDS && schema->fields[i].type != IV_END_OF_FIELDS; i++) {
        enum iv_type type = schema->fields[i].type;
        invoked_json value = at(fields, schema->fields[i].name), e;
        bool some = invoked_json_kind(value) != INVOKED_JSON_NULL;
        const char *it = NULL;
        size_t count = 0;
        if (type == IV_OPT_U32 || type == IV_OPT_U64 || type == IV_OPT_TEXT || type == IV_OPT_BYTES || type == IV_OPT_TEXTS)
            iv_put_byte(&out, some);
        if (!some)
            continue;
        switch (type) {
        case IV_U32: case IV_U64: case IV_OPT_U32: case IV_OPT_U64: iv_put_uint(&out, number(value)); break;
        case IV_BOOL: iv_put_byte(&out, value.text[0] == 't'); break;
        case IV_DELIVERY: iv_put_byte(&out, delivery_number(text_of(value))); break;
        case IV_TEXT: case IV_OPT_TEXT: encode_string(&out, value); break;
        case IV_BYTES: case IV_OPT_BYTES: encode_hex(&out, value); break;
        default:
            while (invoked_json_next(value, &it, NULL, &e))
                count++;
            iv_put_uint(&out, count);
            for (it = NULL; invoked_json_next(value, &it, NULL, &e);)
                encode_element(&out, type, e);
        }
    }
    return out;
}

/* Calls `check` for each case of each file of a directory. */
static size_t each_case(const char *vectors, const char *directory, void (*check)(invoked_json, const char *, const char *))
{
    char path[4096];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", vectors, directory);
    DIR *dir = opendir(path);
    if (dir == NULL)
        stop("can't open", path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        char name[NAME_MAX_LEN];
        const char *it = NULL;
        invoked_json file, one;
        snprintf(path, sizeof path, "%s/%s/%s", vectors, directory, entry->d_name);
        iv_buf text = read_file(path);
        if (invoked_json_parse(text.p, text.len, &file) != 0)
            stop("not JSON", path);
        for (invoked_json cases = at(file, "cases"); invoked_json_next(cases, &it, NULL, &one); count++) {
            snprintf(name, sizeof name, "%s/%s", directory, text_of(at(one, "name")));
            check(one, name, text_of(at(file, "kind")));
        }
        iv_buf_free(&text);
    }
    closedir(dir);
    return count;
}

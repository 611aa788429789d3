/* invoked.c: the client of invoked.h. In order: bytes, JSON, records, frames, the connection without I/O, addresses, the
 * client with its socket. Names that begin with iv_ are private; tests include this file to reach them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "invoked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* ================================================================ bytes */
typedef struct iv_buf {
    uint8_t *p;
    size_t len, cap;
    bool failed; /* memory ran out: what was to be added is missing */
} iv_buf;

static bool iv_reserve(iv_buf *buf, size_t more) {
    if (buf->failed || more > SIZE_MAX / 4 - buf->len) { buf->failed = true; return false; }
    size_t needed = buf->len + more;
    if (needed > buf->cap) {
        size_t cap = buf->cap * 2 > needed ? buf->cap * 2 : needed;
        uint8_t *p = realloc(buf->p, cap);
        if (p == NULL) { buf->failed = true; return false; }
        buf->p = p;
        buf->cap = cap;
    }
    return true;
}

static void iv_put(iv_buf *buf, const void *bytes, size_t len) {
    if (len > 0 && iv_reserve(buf, len)) { memcpy(buf->p + buf->len, bytes, len); buf->len += len; }
}

static void iv_buf_free(iv_buf *buf) {
    free(buf->p);
    memset(buf, 0, sizeof *buf);
}

static void iv_store(uint8_t *at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t iv_load(const uint8_t *at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* The length of the UTF-8 character at the beginning of `len` bytes, its code in `*code`; 0 if it is ill-formed. */
static size_t iv_utf8(const uint8_t *p, size_t len, uint32_t *code) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (len == 0) return 0;
    size_t size = p[0] < 0x80 ? 1 : (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : (p[0] & 0xf8) == 0xf0 ? 4 : 0;
    if (size == 0 || size > len) return 0;
    uint32_t c = size == 1 ? p[0] : p[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < least[size] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *code = c;
    return size;
}

static bool iv_is_utf8(const void *text, size_t len) {
    const uint8_t *p = text;
    uint32_t code;
    for (size_t size; len > 0; p += size, len -= size)
        if ((size = iv_utf8(p, len, &code)) == 0) return false;
    return true;
}

static size_t iv_utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) { out[0] = (char)c; return 1; }
    size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> size) | c);
    return size;
}

/* Copies text to a fixed place with a NUL; what doesn't fit is cut at a whole character, ill-formed bytes become '?'. */
static void iv_copy_text(char *to, size_t size, const void *text, size_t len) {
    const uint8_t *p = text;
    size_t at = 0, step;
    uint32_t code;
    for (; len > 0; p += step, len -= step) {
        bool good = (step = iv_utf8(p, len, &code)) > 0 && code != 0;
        step = step == 0 ? 1 : step;
        size_t need = good ? step : 1;
        if (at + need >= size) break;
        if (good)
            memcpy(to + at, p, step);
        else
            to[at] = '?';
        at += need;
    }
    to[at] = 0;
}

static uint64_t iv_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ================================================================ JSON */
typedef struct iv_text {
    const char *at, *end;
} iv_text;

static void iv_json_space(iv_text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\n' || *t->at == '\r')) t->at++;
}

static bool iv_json_hex(iv_text *t, uint32_t *code) {
    uint32_t value = 0;
    if (t->end - t->at < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = *t->at++;
        uint32_t digit = c >= '0' && c <= '9' ? (uint32_t)(c - '0') : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10) : 16;
        if (digit == 16) return false;
        value = value << 4 | digit;
    }
    *code = value;
    return true;
}

/* One character of a string after its quote: 1 and the code, 0 at the closing quote (which is taken), -1 if ill-formed. */
static int iv_json_char(iv_text *t, uint32_t *code) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (t->at == t->end || (unsigned char)*t->at < 0x20) return -1;
    if (*t->at == '"') { t->at++; return 0; }
    if (*t->at != '\\') {
        size_t size = iv_utf8((const uint8_t *)t->at, (size_t)(t->end - t->at), code);
        t->at += size;
        return size > 0 ? 1 : -1;
    }
    if (++t->at == t->end) return -1;
    char c = *t->at++;
    if (c != 'u') {
        const char *found = c != 0 ? strchr(names, c) : NULL;
        if (found == NULL) return -1;
        *code = (unsigned char)values[found - names];
        return 1;
    }
    uint32_t low;
    if (!iv_json_hex(t, code) || (*code >= 0xdc00 && *code < 0xe000)) return -1;
    if (*code >= 0xd800 && *code < 0xdc00) {
        if (t->end - t->at < 2 || t->at[0] != '\\' || t->at[1] != 'u') return -1;
        t->at += 2;
        if (!iv_json_hex(t, &low) || low < 0xdc00 || low > 0xdfff) return -1;
        *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    }
    return 1;
}

static bool iv_json_digits(iv_text *t) {
    const char *start = t->at;
    while (t->at < t->end && *t->at >= '0' && *t->at <= '9') t->at++;
    return t->at > start;
}

static bool iv_json_number(iv_text *t) {
    if (t->at < t->end && *t->at == '-') t->at++;
    const char *first = t->at;
    if (!iv_json_digits(t) || (*first == '0' && t->at - first > 1)) return false;
    if (t->at < t->end && *t->at == '.') {
        t->at++;
        if (!iv_json_digits(t)) return false;
    }
    if (t->at < t->end && (*t->at == 'e' || *t->at == 'E')) {
        t->at++;
        if (t->at < t->end && (*t->at == '+' || *t->at == '-')) t->at++;
        return iv_json_digits(t);
    }
    return true;
}

static bool iv_json_word(iv_text *t, const char *word) {
    size_t len = strlen(word);
    if ((size_t)(t->end - t->at) < len || memcmp(t->at, word, len) != 0) return false;
    t->at += len;
    return true;
}

static bool iv_json_text(iv_text *t) {
    uint32_t code;
    int got;
    if (t->at == t->end || *t->at++ != '"') return false;
    while ((got = iv_json_char(t, &code)) == 1) ;
    return got == 0;
}

/* Goes past one value. */
static bool iv_json_skip(iv_text *t, unsigned depth) {
    if (t->at == t->end) return false;
    char open = *t->at, close = open == '{' ? '}' : ']';
    switch (open) {
    case 'n': return iv_json_word(t, "null");
    case 't': return iv_json_word(t, "true");
    case 'f': return iv_json_word(t, "false");
    case '"': return iv_json_text(t);
    case '{': case '[': break;
    default: return iv_json_number(t);
    }
    if (depth == 0) return false;
    t->at++;
    iv_json_space(t);
    if (t->at < t->end && *t->at == close) { t->at++; return true; }
    for (;;) {
        iv_json_space(t);
        if (open == '{') {
            if (!iv_json_text(t)) return false;
            iv_json_space(t);
            if (t->at == t->end || *t->at++ != ':') return false;
            iv_json_space(t);
        }
        if (!iv_json_skip(t, depth - 1)) return false;
        iv_json_space(t);
        if (t->at == t->end) return false;
        char next = *t->at++;
        if (next == close) return true;
        if (next != ',') return false;
    }
}

int invoked_json_parse(const void *text, size_t len, invoked_json *value) {
    iv_text t = {text, (const char *)text + len};
    iv_json_space(&t);
    const char *start = t.at;
    if (!iv_json_skip(&t, (unsigned)INVOKED_MAX_JSON_DEPTH)) return -EBADMSG;
    *value = (invoked_json){start, (size_t)(t.at - start)};
    iv_json_space(&t);
    return t.at == t.end ? 0 : -EBADMSG;
}

enum invoked_json_kind invoked_json_kind(invoked_json value) {
    switch (value.len > 0 ? value.text[0] : 'n') {
    case 'n': return INVOKED_JSON_NULL;
    case 't': case 'f': return INVOKED_JSON_BOOL;
    case '"': return INVOKED_JSON_STRING;
    case '[': return INVOKED_JSON_ARRAY;
    case '{': return INVOKED_JSON_OBJECT;
    default: return INVOKED_JSON_NUMBER;
    }
}

bool invoked_json_next(invoked_json of, const char **at, invoked_json *key, invoked_json *value) {
    if (of.len < 2 || (of.text[0] != '[' && of.text[0] != '{')) return false;
    iv_text t = {*at != NULL ? *at : of.text + 1, of.text + of.len - 1};
    iv_json_space(&t);
    if (t.at < t.end && *t.at == ',') { t.at++; iv_json_space(&t); }
    if (t.at == t.end) return false;
    const char *start = t.at;
    if (of.text[0] == '{') {
        if (!iv_json_text(&t)) return false;
        if (key != NULL)
            *key = (invoked_json){start, (size_t)(t.at - start)};
        iv_json_space(&t);
        t.at++;
        iv_json_space(&t);
        start = t.at;
    }
    if (!iv_json_skip(&t, (unsigned)INVOKED_MAX_JSON_DEPTH)) return false;
    *value = (invoked_json){start, (size_t)(t.at - start)};
    *at = t.at;
    return true;
}

long invoked_json_string(invoked_json value, char *text, size_t size) {
    if (invoked_json_kind(value) != INVOKED_JSON_STRING) return -EINVAL;
    iv_text t = {value.text + 1, value.text + value.len};
    size_t len = 0;
    uint32_t code;
    char bytes[4];
    while (iv_json_char(&t, &code) == 1) {
        size_t step = iv_utf8_encode(code, bytes);
        if (len + step >= size) return -ENOSPC;
        memcpy(text + len, bytes, step);
        len += step;
    }
    if (len >= size) return -ENOSPC;
    text[len] = 0;
    return (long)len;
}

bool invoked_json_is(invoked_json value, const char *text) {
    if (invoked_json_kind(value) != INVOKED_JSON_STRING) return false;
    iv_text t = {value.text + 1, value.text + value.len};
    uint32_t code;
    char bytes[4];
    while (iv_json_char(&t, &code) == 1) {
        size_t step = iv_utf8_encode(code, bytes);
        if (strncmp(text, bytes, step) != 0 || code == 0) return false;
        text += step;
    }
    return *text == 0;
}

int invoked_json_get(invoked_json object, const char *key, invoked_json *value) {
    if (invoked_json_kind(object) != INVOKED_JSON_OBJECT) return -EINVAL;
    const char *at = NULL;
    invoked_json name, found;
    int times = 0;
    while (invoked_json_next(object, &at, &name, &found))
        if (invoked_json_is(name, key)) {
            if (times++ > 0) return -EBADMSG;
            *value = found;
        }
    return times == 1 ? 0 : -ENOENT;
}

int invoked_json_u64(invoked_json value, uint64_t *number) {
    uint64_t sum = 0;
    if (invoked_json_kind(value) != INVOKED_JSON_NUMBER) return -EINVAL;
    bool negative = value.text[0] == '-';
    for (size_t i = negative; i < value.len; i++) {
        if (value.text[i] < '0' || value.text[i] > '9') return -EINVAL;
        uint64_t digit = (uint64_t)(value.text[i] - '0');
        if (sum > (UINT64_MAX - digit) / 10) return -ERANGE;
        sum = sum * 10 + digit;
    }
    *number = sum;
    return negative && sum > 0 ? -ERANGE : 0;
}

int invoked_json_i64(invoked_json value, int64_t *number) {
    bool negative = value.len > 0 && value.text[0] == '-';
    uint64_t size;
    if (negative)
        value = (invoked_json){value.text + 1, value.len - 1};
    int result = invoked_json_u64(value, &size);
    if (result != 0) return result;
    if (size > (uint64_t)INT64_MAX + negative) return -ERANGE;
    *number = !negative ? (int64_t)size : size == 0 ? 0 : -(int64_t)(size - 1) - 1;
    return 0;
}

int invoked_json_double(invoked_json value, double *number) {
    char text[512];
    if (invoked_json_kind(value) != INVOKED_JSON_NUMBER || value.len >= sizeof text - 8) return -EINVAL;
    /* strtod reads numbers as the program's locale writes them. */
    const char *point = localeconv()->decimal_point;
    size_t len = 0;
    for (size_t i = 0; i < value.len; i++)
        if (value.text[i] == '.' && strlen(point) < 8) {
            memcpy(text + len, point, strlen(point));
            len += strlen(point);
        } else {
            text[len++] = value.text[i];
        }
    text[len] = 0;
    char *end;
    *number = strtod(text, &end);
    return *end == 0 ? 0 : -EINVAL;
}

int invoked_json_bool(invoked_json value, bool *truth) {
    if (invoked_json_kind(value) != INVOKED_JSON_BOOL) return -EINVAL;
    *truth = value.text[0] == 't';
    return 0;
}

long invoked_json_quote(const char *text, char *out, size_t size) {
    size_t len = 0;
    if (!iv_is_utf8(text, strlen(text))) return -EINVAL;
    if (size < 3) return -ENOSPC;
    out[len++] = '"';
    for (; *text != 0; text++) {
        unsigned char c = (unsigned char)*text;
        char piece[8];
        int step = c == '"' || c == '\\' ? snprintf(piece, sizeof piece, "\\%c", c)
                   : c < 0x20 ? snprintf(piece, sizeof piece, "\\u%04x", c) : snprintf(piece, sizeof piece, "%c", c);
        if (len + (size_t)step + 2 > size) return -ENOSPC;
        memcpy(out + len, piece, (size_t)step);
        len += (size_t)step;
    }
    out[len++] = '"';
    out[len] = 0;
    return (long)len;
}

/* ================================================================ records */
enum iv_record_fault {
    IV_RECORD_OK, IV_TRUNCATED_RECORD, IV_TRAILING_BYTES, IV_NOT_MINIMAL, IV_LIMIT_EXCEEDED, IV_NOT_UTF8, IV_BAD_VALUE,
    IV_TOO_MANY, IV_MALFORMED, IV_TAG_ORDER, IV_UNKNOWN_TAG, };

/* What is wrong with what a peer sent; the names are those of the vectors. X(constant, text, code) */
#define IV_FAULTS(X) \
    X(IV_OK, "", INVOKED_CODE_APPLICATION) \
    X(IV_BAD_MAGIC, "Decode(BadMagic)", INVOKED_CODE_PROTOCOL) \
    X(IV_FRAME_TOO_LARGE, "Decode(FrameTooLarge { len: %A, max: %B })", INVOKED_CODE_TOO_LARGE) \
    X(IV_METADATA_TOO_LARGE, "Decode(MetadataTooLarge(%A))", INVOKED_CODE_TOO_LARGE) \
    X(IV_METADATA_BEYOND, "Decode(MetadataBeyondFrame { meta_len: %A, len: %B })", INVOKED_CODE_PROTOCOL) \
    X(IV_UNKNOWN_KIND, "Decode(UnknownKind(%A))", INVOKED_CODE_PROTOCOL) \
    X(IV_UNKNOWN_CODEC, "Decode(UnknownCodec(%A))", INVOKED_CODE_PROTOCOL) \
    X(IV_RESERVED_BYTE, "Decode(ReservedByte(%A))", INVOKED_CODE_PROTOCOL) \
    X(IV_STREAM_TOO_LARGE, "Decode(StreamTooLarge(%A))", INVOKED_CODE_PROTOCOL) \
    X(IV_TOO_MANY_FDS, "Decode(TooManyFds(%A))", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_FDS_MISSING, "Decode(FdsMissing { claimed: %A, queued: %B })", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_FDS_UNCLAIMED, "Decode(FdsUnclaimed(%A))", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_RECORD, "Decode(Record { kind: %K, error: %R })", INVOKED_CODE_PROTOCOL) \
    X(IV_BAD_PREFACE, "BadPreface", INVOKED_CODE_PROTOCOL) \
    X(IV_UNEXPECTED, "Unexpected(%K)", INVOKED_CODE_PROTOCOL) \
    X(IV_WRONG_STREAM, "WrongStream(%K)", INVOKED_CODE_PROTOCOL) \
    X(IV_STREAM_ORDER, "StreamOrder(%A)", INVOKED_CODE_PROTOCOL) \
    X(IV_UNKNOWN_STREAM, "UnknownStream(%A)", INVOKED_CODE_PROTOCOL) \
    X(IV_MESSAGE_LENGTH, "MessageLength", INVOKED_CODE_PROTOCOL) \
    X(IV_BODY_MISMATCH, "BodyMismatch", INVOKED_CODE_PROTOCOL) \
    X(IV_FEATURE, "Feature", INVOKED_CODE_PROTOCOL) \
    X(IV_UNKNOWN_CHANNEL, "UnknownChannel { stream: %A, channel: %B }", INVOKED_CODE_PROTOCOL) \
    X(IV_OVERRUN, "Overrun", INVOKED_CODE_PROTOCOL) \
    X(IV_CREDIT_OVERFLOW, "CreditOverflow", INVOKED_CODE_PROTOCOL) \
    X(IV_NO_SEGMENT, "NoSegment(%A)", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_NO_FILE, "NoFile(%A)", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_BAD_SEGMENT, "BadSegment(%A)", INVOKED_CODE_ATTACHMENT_REFUSED) \
    X(IV_NOT_LENT, "NotLent", INVOKED_CODE_PROTOCOL) \
    X(IV_HANDSHAKE_TIMEOUT, "HandshakeTimeout", INVOKED_CODE_DEADLINE_EXCEEDED) \
    X(IV_FRAME_TIMEOUT, "FrameTimeout", INVOKED_CODE_DEADLINE_EXCEEDED) \
    X(IV_CUT_OFF, "Truncated", INVOKED_CODE_PROTOCOL) \
    X(IV_NO_MEMORY, "out of memory", INVOKED_CODE_RESOURCE_EXHAUSTED)

#define IV_MEMBER(constant, text, code) constant,
enum iv_fault { IV_FAULTS(IV_MEMBER) };
#undef IV_MEMBER

typedef struct iv_error {
    enum iv_fault what;
    enum iv_record_fault record; /* of IV_RECORD */
    const char *detail;          /* of IV_TOO_MANY and IV_MALFORMED */
    uint64_t a, b;
    uint8_t kind;
} iv_error;

static const char *iv_kind_name(uint8_t kind) {
    switch (kind) {
#define IV_CASE(kind, name, rule, record, reserved) case INVOKED_FRAME_##kind: return name;
        INVOKED_FRAMES(IV_CASE)
#undef IV_CASE
    default: return "?";
    }
}

static uint32_t iv_fault_code(enum iv_fault what) {
#define IV_CODE(constant, text, code) code,
    static const uint32_t codes[] = {IV_FAULTS(IV_CODE)};
#undef IV_CODE
    return codes[what];
}

/* The kind as the vectors write it in errors: GoAway, Welcome. */
static void iv_camel(const char *name, char out[16]) {
    size_t i = 0;
    for (; name[i] != 0 && i < 15; i++)
        out[i] = (char)(i > 0 && !(i == 2 && strcmp(name, "GOAWAY") == 0) && name[i] >= 'A' ? name[i] + 32 : name[i]);
    out[i] = 0;
}

static void iv_record_text(const iv_error *error, char *out, size_t size) {
    static const char *const names[] = {"Ok", "Truncated", "TrailingBytes", "NotMinimal", "LimitExceeded", "NotUtf8",
                                        "BadValue", "TooMany", "Malformed", "TagOrder", "UnknownTag"};
    if (error->record == IV_TOO_MANY || error->record == IV_MALFORMED)
        snprintf(out, size, "%s(\"%s\")", names[error->record], error->detail);
    else if (error->record == IV_UNKNOWN_TAG)
        snprintf(out, size, "UnknownTag(%" PRIu64 ")", error->a);
    else
        snprintf(out, size, "%s", names[error->record]);
}

/* An error as text. */
static void iv_error_text(const iv_error *error, char *out, size_t size) {
#define IV_TEXT(constant, text, code) text,
    static const char *const texts[] = {IV_FAULTS(IV_TEXT)};
#undef IV_TEXT
    size_t len = 0;
    for (const char *t = texts[error->what]; *t != 0 && len + 1 < size; t++) {
        char piece[96] = {*t, 0};
        if (*t == '%') {
            t++;
            if (*t == 'A' || *t == 'B')
                snprintf(piece, sizeof piece, "%" PRIu64, *t == 'A' ? error->a : error->b);
            else if (*t == 'K')
                iv_camel(iv_kind_name(error->kind), piece);
            else
                iv_record_text(error, piece, sizeof piece);
        }
        len += (size_t)snprintf(out + len, size - len, "%s", piece);
    }
    out[len < size ? len : size - 1] = 0;
}

enum iv_type {
    IV_END_OF_FIELDS, IV_U32, IV_U64, IV_BOOL, IV_DELIVERY, IV_TEXT, IV_BYTES, IV_OPT_U32, IV_OPT_U64, IV_OPT_TEXT,
    IV_OPT_BYTES, IV_U8S, IV_TEXTS, IV_OPT_TEXTS, IV_LIMITS, IV_HEADERS, IV_CHANNELS, IV_PARTS, IV_LEASES, IV_EXTENSIONS, };

#define IV_MAX_FIELDS 7

typedef struct iv_schema {
    const char *name;
    struct {
        const char *name;
        enum iv_type type;
    } fields[IV_MAX_FIELDS + 1];
} iv_schema;

enum iv_schema_id {
    IV_HELLO, IV_WELCOME, IV_GOAWAY, IV_CALL, IV_REPLY, IV_FAILURE, IV_ITEM, IV_END, IV_CREDIT, IV_RELEASE, IV_SEGMENT,
    IV_LANES, IV_GRANT, IV_UNGRANT, IV_ORIGIN, IV_SCHEMAS, };

/* Positions of fields that are used below. */
enum { IV_WELCOME_PEER, IV_WELCOME_LIMITS, IV_WELCOME_WARNINGS = 3 };
enum { IV_GOAWAY_LAST, IV_GOAWAY_MESSAGE };
enum { IV_CALL_CHANNELS = 3, IV_CALL_PARTS };
enum { IV_REPLY_HEADERS, IV_REPLY_PARTS };
enum { IV_FAILURE_MESSAGE, IV_FAILURE_DELIVERY, IV_FAILURE_RETRYABLE, IV_FAILURE_AFTER, IV_FAILURE_DECISION, IV_FAILURE_PARTS };
enum { IV_ITEM_PARTS, IV_ITEM_EXTENSIONS };
enum { IV_END_CODE, IV_END_MESSAGE, IV_END_EXTENSIONS };
enum { IV_SEGMENT_NUMBER, IV_SEGMENT_GENERATION, IV_SEGMENT_LEN };

static const iv_schema iv_schemas[IV_SCHEMAS] = {
    [IV_HELLO] = {"Hello", {{"name", IV_TEXT}, {"version", IV_TEXT}, {"library", IV_TEXT}, {"manifest_hash", IV_OPT_BYTES},
                            {"lanes", IV_U8S}, {"narrow", IV_OPT_TEXTS}, {"extensions", IV_EXTENSIONS}}},
    [IV_WELCOME] = {"Welcome", {{"peer", IV_U64}, {"limits", IV_LIMITS}, {"catalogue", IV_U64}, {"warnings", IV_TEXTS},
                                {"extensions", IV_EXTENSIONS}}},
    [IV_GOAWAY] = {"GoAway", {{"last_stream", IV_U64}, {"message", IV_TEXT}, {"extensions", IV_EXTENSIONS}}},
    [IV_CALL] = {"Call", {{"command", IV_TEXT}, {"headers", IV_HEADERS}, {"deadline_us", IV_OPT_U64},
                          {"channels", IV_CHANNELS}, {"parts", IV_PARTS}, {"extensions", IV_EXTENSIONS}}},
    [IV_REPLY] = {"Reply", {{"headers", IV_HEADERS}, {"parts", IV_PARTS}, {"extensions", IV_EXTENSIONS}}},
    [IV_FAILURE] = {"Failure", {{"message", IV_TEXT}, {"delivery", IV_DELIVERY}, {"retryable", IV_BOOL},
                                {"retry_after_ms", IV_OPT_U64}, {"decision", IV_OPT_TEXT}, {"parts", IV_PARTS},
                                {"extensions", IV_EXTENSIONS}}}, [IV_ITEM] = {"Item", {{"parts", IV_PARTS}, {"extensions", IV_EXTENSIONS}}},
    [IV_END] = {"End", {{"code", IV_OPT_U32}, {"message", IV_TEXT}, {"extensions", IV_EXTENSIONS}}},
    [IV_CREDIT] = {"Credit", {{"bytes", IV_U64}, {"extensions", IV_EXTENSIONS}}},
    [IV_RELEASE] = {"Release", {{"fds", IV_U32}, {"leases", IV_LEASES}, {"extensions", IV_EXTENSIONS}}},
    [IV_SEGMENT] = {"Segment", {{"segment", IV_U32}, {"generation", IV_U32}, {"len", IV_U64}, {"extensions", IV_EXTENSIONS}}},
    [IV_LANES] = {"Lanes", {{"lanes", IV_U8S}, {"extensions", IV_EXTENSIONS}}},
    [IV_GRANT] = {"Grant", {{"grant", IV_U64}, {"generation", IV_U64}, {"scopes", IV_BYTES}, {"extensions", IV_EXTENSIONS}}},
    [IV_UNGRANT] = {"Ungrant", {{"grant", IV_U64}, {"extensions", IV_EXTENSIONS}}},
    [IV_ORIGIN] = {"OriginStamp", {{"uid", IV_U32}, {"gid", IV_U32}, {"peer", IV_U64}, {"pid", IV_OPT_U32}, {"grant", IV_U64}}}, };

/* A field of a record: `number` is its integer or how many it lists; `span` its text, bytes, or encoded elements. All
 * point into the bytes that were decoded. */
typedef struct iv_field {
    bool some;
    uint64_t number;
    const uint8_t *span;
    size_t len;
} iv_field;

typedef struct iv_record {
    enum iv_schema_id id;
    iv_field f[IV_MAX_FIELDS];
} iv_record;

typedef struct iv_part {
    uint8_t codec, place, fd;
    uint64_t len, offset;
    uint32_t segment, generation;
} iv_part;

typedef struct iv_reader {
    const uint8_t *at, *end;
    enum iv_record_fault fault;
    bool long_form; /* an integer was longer than it had to be */
} iv_reader;

static void iv_put_uint(iv_buf *buf, uint64_t value) {
    uint8_t bytes[9];
    size_t width = value <= 250 ? 0 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
    bytes[0] = (uint8_t)(width == 0 ? value : width == 2 ? 0xfb : width == 4 ? 0xfc : 0xfd);
    iv_store(bytes + 1, value, width);
    iv_put(buf, bytes, 1 + width);
}

static void iv_put_byte(iv_buf *buf, uint8_t byte) {
    iv_put(buf, &byte, 1);
}

static void iv_put_bytes(iv_buf *buf, const void *bytes, size_t len) {
    iv_put_uint(buf, len);
    iv_put(buf, bytes, len);
}

static void iv_put_text(iv_buf *buf, const char *text) {
    iv_put_bytes(buf, text, strlen(text));
}

static void iv_fail(iv_reader *r, enum iv_record_fault fault) {
    if (r->fault == IV_RECORD_OK) r->fault = fault;
    r->at = r->end;
}

static uint8_t iv_get_byte(iv_reader *r) {
    if (r->at == r->end) { iv_fail(r, IV_TRUNCATED_RECORD); return 0; }
    return *r->at++;
}

/* An integer of at most `width` bytes. */
static uint64_t iv_get_uint(iv_reader *r, size_t width) {
    uint8_t mark = iv_get_byte(r);
    if (mark <= 250) return mark;
    size_t size = mark == 0xfb ? 2 : mark == 0xfc ? 4 : mark == 0xfd ? 8 : 16;
    if (size > width) { iv_fail(r, IV_BAD_VALUE); return 0; }
    if ((size_t)(r->end - r->at) < size) { iv_fail(r, IV_TRUNCATED_RECORD); return 0; }
    uint64_t value = iv_load(r->at, size);
    r->at += size;
    r->long_form |= value <= (size == 2 ? 250 : size == 4 ? 0xffff : 0xffffffff);
    return value;
}

/* A count of things that take `size` bytes of memory in a receiver that keeps them. */
static uint64_t iv_get_count(iv_reader *r, size_t size) {
    uint64_t count = iv_get_uint(r, 8);
    if (count > 4 * INVOKED_MAX_METADATA / size) { iv_fail(r, IV_LIMIT_EXCEEDED); return 0; }
    return count;
}

static void iv_get_span(iv_reader *r, iv_field *f, bool is_text) {
    uint64_t len = iv_get_count(r, 1);
    if (len > (uint64_t)(r->end - r->at)) { iv_fail(r, IV_TRUNCATED_RECORD); len = 0; }
    f->span = r->at;
    f->len = (size_t)len;
    r->at += len;
    if (is_text && !iv_is_utf8(f->span, f->len)) iv_fail(r, IV_NOT_UTF8);
}

static bool iv_get_some(iv_reader *r) {
    uint8_t byte = iv_get_byte(r);
    if (byte > 1) iv_fail(r, IV_BAD_VALUE);
    return byte == 1;
}

static iv_part iv_get_part(iv_reader *r) {
    iv_part part = {.codec = iv_get_byte(r)};
    if (part.codec > INVOKED_CODEC_JSON) iv_fail(r, IV_BAD_VALUE);
    part.len = iv_get_uint(r, 8);
    uint64_t place = iv_get_uint(r, 4);
    if (place > INVOKED_LANE_FILE) iv_fail(r, IV_BAD_VALUE);
    part.place = (uint8_t)place;
    if (place == INVOKED_LANE_POOL) {
        part.segment = (uint32_t)iv_get_uint(r, 4);
        part.generation = (uint32_t)iv_get_uint(r, 4);
    } else if (place != INVOKED_LANE_INLINE) {
        part.fd = iv_get_byte(r);
    }
    if (place == INVOKED_LANE_POOL || place == INVOKED_LANE_FILE) part.offset = iv_get_uint(r, 8);
    return part;
}

static size_t iv_element_size(enum iv_type type) {
    switch (type) {
    case IV_U8S: return 1;
    case IV_HEADERS: return 64;
    case IV_TEXTS: case IV_OPT_TEXTS: return 32;
    case IV_PARTS: case IV_EXTENSIONS: return 40;
    default: return 16;
    }
}

/* One element of a list; what it says is in `a`, `b` and the two spans. */
typedef struct iv_element {
    uint64_t a, b, c;
    iv_field one, two;
    iv_part part;
} iv_element;

static void iv_get_element(iv_reader *r, enum iv_type type, iv_element *e) {
    memset(e, 0, sizeof *e);
    switch (type) {
    case IV_U8S: e->a = iv_get_byte(r); break;
    case IV_TEXTS: case IV_OPT_TEXTS: iv_get_span(r, &e->one, true); break;
    case IV_HEADERS:
        iv_get_span(r, &e->one, true);
        iv_get_span(r, &e->two, true);
        break;
    case IV_LIMITS:
        e->a = iv_get_uint(r, 2);
        e->b = iv_get_uint(r, 8);
        break;
    case IV_CHANNELS:
        e->a = iv_get_uint(r, 4);
        if ((e->b = iv_get_byte(r)) > INVOKED_DIRECTION_UP) iv_fail(r, IV_BAD_VALUE);
        e->c = iv_get_uint(r, 8);
        break;
    case IV_PARTS: e->part = iv_get_part(r); break;
    case IV_LEASES:
        e->a = iv_get_uint(r, 4);
        e->b = iv_get_uint(r, 4);
        e->c = iv_get_uint(r, 8);
        break;
    default:
        e->a = iv_get_uint(r, 2);
        iv_get_span(r, &e->one, false);
    }
}

static void iv_get_field(iv_reader *r, enum iv_type type, iv_field *f) {
    iv_element element;
    f->some = true;
    switch (type) {
    case IV_U32: f->number = iv_get_uint(r, 4); return;
    case IV_U64: f->number = iv_get_uint(r, 8); return;
    case IV_BOOL: case IV_DELIVERY:
        if ((f->number = iv_get_byte(r)) > (type == IV_BOOL ? 1 : INVOKED_DELIVERY_COMPLETED)) iv_fail(r, IV_BAD_VALUE);
        return;
    case IV_TEXT: case IV_BYTES: iv_get_span(r, f, type == IV_TEXT); return;
    case IV_OPT_U32: case IV_OPT_U64:
        if ((f->some = iv_get_some(r))) f->number = iv_get_uint(r, type == IV_OPT_U32 ? 4 : 8);
        return;
    case IV_OPT_TEXT: case IV_OPT_BYTES:
        if ((f->some = iv_get_some(r))) iv_get_span(r, f, type == IV_OPT_TEXT);
        return;
    default: break;
    }
    if (type == IV_OPT_TEXTS && !(f->some = iv_get_some(r))) return;
    f->number = iv_get_count(r, iv_element_size(type));
    f->span = r->at;
    for (uint64_t i = 0; i < f->number && r->fault == IV_RECORD_OK; i++) iv_get_element(r, type, &element);
    f->len = (size_t)(r->at - f->span);
}

/* Goes through the elements of a decoded list. */
static iv_reader iv_list(const iv_field *f) { return (iv_reader){.at = f->span, .end = f->span != NULL ? f->span + f->len : NULL}; }

static bool iv_each(iv_reader *r, enum iv_type type, iv_element *e) {
    if (r->at == r->end) return false;
    iv_get_element(r, type, e);
    return true;
}

static bool iv_is_header_key(const iv_field *key, bool may_have_major) {
    if (may_have_major && key->len == 6 && memcmp(key->span, ":major", 6) == 0) return true;
    for (size_t i = 0; i < key->len; i++) {
        uint8_t c = key->span[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
    }
    return key->len > 0;
}

static enum iv_record_fault iv_decode(enum iv_schema_id id, const uint8_t *bytes, size_t len, iv_record *record, iv_error *error);

static enum iv_record_fault iv_check_extensions(const iv_field *list, iv_error *error) {
    iv_reader r = iv_list(list);
    iv_element e;
    int64_t last = -1;
    while (iv_each(&r, IV_EXTENSIONS, &e)) {
        if ((int64_t)e.a <= last) return IV_TAG_ORDER;
        last = (int64_t)e.a;
    }
    r = iv_list(list);
    while (iv_each(&r, IV_EXTENSIONS, &e)) {
        iv_record origin;
        bool fits = true;
        switch (e.a) {
        case INVOKED_TAG_PARENT: case INVOKED_TAG_ON_BEHALF: fits = e.one.len == 8; break;
        case INVOKED_TAG_DEPTH: fits = e.one.len == 1; break;
        case INVOKED_TAG_IDEMPOTENCY_KEY: break;
        case INVOKED_TAG_ORIGIN: {
            enum iv_record_fault fault = iv_decode(IV_ORIGIN, e.one.span, e.one.len, &origin, error);
            if (fault != IV_RECORD_OK) return fault;
            break;
        }
        default:
            if (e.a < 0x8000) { error->a = e.a; return IV_UNKNOWN_TAG; }
        }
        if (!fits) { error->detail = "value of an extension"; return IV_MALFORMED; }
    }
    return IV_RECORD_OK;
}

static enum iv_record_fault iv_check_list(enum iv_schema_id id, enum iv_type type, const iv_field *f, iv_error *error) {
    static const struct { enum iv_type type; uint64_t most; const char *what; } counts[] = {
        {IV_U8S, 16, "lanes"}, {IV_OPT_TEXTS, INVOKED_MAX_HEADERS, "capabilities"}, {IV_LIMITS, 64, "limits"},
        {IV_TEXTS, 16, "warnings"}, {IV_HEADERS, INVOKED_MAX_HEADERS, "headers"},
        {IV_CHANNELS, INVOKED_MAX_CHANNELS_PER_CALL, "channels"}, {IV_PARTS, INVOKED_MAX_PARTS, "parts"},
        {IV_LEASES, 1024, "leases"}, {IV_EXTENSIONS, INVOKED_MAX_EXTENSIONS, "extensions"}, };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].type == type && f->number > counts[i].most) { error->detail = counts[i].what; return IV_TOO_MANY; }
    iv_reader r = iv_list(f);
    iv_element e;
    uint32_t indexes[INVOKED_MAX_CHANNELS_PER_CALL];
    size_t at = 0;
    switch (type) {
    case IV_HEADERS:
        while (iv_each(&r, type, &e))
            if (!iv_is_header_key(&e.one, id == IV_CALL)) { error->detail = "header key"; return IV_MALFORMED; }
        return IV_RECORD_OK;
    case IV_CHANNELS:
        for (; iv_each(&r, type, &e); at++) {
            bool is_bad = e.a == 0;
            for (size_t i = 0; i < at; i++) is_bad |= indexes[i] == e.a;
            if (is_bad) { error->detail = "channel index"; return IV_MALFORMED; }
            indexes[at] = (uint32_t)e.a;
        }
        return IV_RECORD_OK;
    case IV_PARTS:
        error->detail = f->number == 0 ? "list of parts" : NULL;
        for (; iv_each(&r, type, &e) && error->detail == NULL; at++) {
            if (at == 0 && e.part.codec == INVOKED_CODEC_NONE && (e.part.len != 0 || e.part.place != INVOKED_LANE_INLINE))
                error->detail = "part 0";
            if (at > 0 && e.part.codec != INVOKED_CODEC_RAW) error->detail = "attachment";
        }
        return error->detail == NULL ? IV_RECORD_OK : IV_MALFORMED;
    case IV_EXTENSIONS: return iv_check_extensions(f, error);
    default: return IV_RECORD_OK;
    }
}

/* Reads a record and checks all that it can break alone. Nothing is allocated. */
static enum iv_record_fault iv_decode(enum iv_schema_id id, const uint8_t *bytes, size_t len, iv_record *record, iv_error *error) {
    static const uint8_t nothing[1];
    const iv_schema *schema = &iv_schemas[id];
    bytes = bytes != NULL ? bytes : nothing;
    iv_reader r = {.at = bytes, .end = bytes + len};
    memset(record, 0, sizeof *record);
    record->id = id;
    for (size_t i = 0; i < IV_MAX_FIELDS && schema->fields[i].type != IV_END_OF_FIELDS && r.fault == IV_RECORD_OK; i++)
        iv_get_field(&r, schema->fields[i].type, &record->f[i]);
    if (r.fault != IV_RECORD_OK) return r.fault;
    if (r.at != r.end) return IV_TRAILING_BYTES;
    if (r.long_form) return IV_NOT_MINIMAL;
    if (id == IV_CALL && (record->f[0].len == 0 || record->f[0].len > INVOKED_MAX_NAME))
        error->detail = "command name";
    else if (id == IV_CREDIT && record->f[0].number == 0)
        error->detail = "credit";
    if (error->detail != NULL) return IV_MALFORMED;
    for (size_t i = 0; i < IV_MAX_FIELDS && schema->fields[i].type != IV_END_OF_FIELDS; i++) {
        enum iv_record_fault fault = iv_check_list(id, schema->fields[i].type, &record->f[i], error);
        if (fault != IV_RECORD_OK) return fault;
    }
    return IV_RECORD_OK;
}

/* The value of an extension: its length, -1 if it isn't there. */
static long iv_extension(const iv_field *list, uint16_t tag, const uint8_t **value) {
    iv_reader r = iv_list(list);
    iv_element e;
    while (iv_each(&r, IV_EXTENSIONS, &e))
        if (e.a == tag) { *value = e.one.span; return (long)e.one.len; }
    return -1;
}

static uint64_t iv_lagged(const iv_field *extensions) {
    const uint8_t *value;
    return iv_extension(extensions, INVOKED_TAG_LAGGED, &value) == 8 ? iv_load(value, 8) : 0;
}

/* ================================================================ frames */
typedef struct iv_header {
    uint32_t len, arg;
    uint16_t flags, meta_len;
    uint64_t stream;
    uint8_t kind, codec, nfds, reserved;
} iv_header;

static void iv_header_write(const iv_header *h, uint8_t out[INVOKED_HEADER_LEN]) {
    iv_store(out, h->len, 4);
    out[4] = h->kind;
    out[5] = h->codec;
    iv_store(out + 6, h->flags, 2);
    iv_store(out + 8, h->stream, 8);
    iv_store(out + 16, h->meta_len, 2);
    out[18] = h->nfds;
    out[19] = 0;
    iv_store(out + 20, h->arg, 4);
}

static bool iv_kind_is_known(uint8_t kind) {
    switch (kind) {
#define IV_CASE(kind, name, rule, record, reserved) case INVOKED_FRAME_##kind: return !reserved;
        INVOKED_FRAMES(IV_CASE)
#undef IV_CASE
    default: return false;
    }
}

static iv_error iv_header_read(const uint8_t *in, uint32_t max_frame, unsigned max_fds, iv_header *h) {
    *h = (iv_header){(uint32_t)iv_load(in, 4), (uint32_t)iv_load(in + 20, 4), (uint16_t)iv_load(in + 6, 2),
                     (uint16_t)iv_load(in + 16, 2), iv_load(in + 8, 8), in[4], in[5], in[18], in[19]};
    if (h->codec > INVOKED_CODEC_JSON) return (iv_error){.what = IV_UNKNOWN_CODEC, .a = h->codec};
    if (h->reserved != 0) return (iv_error){.what = IV_RESERVED_BYTE, .a = h->reserved};
    if (h->kind < 0x80 && !iv_kind_is_known(h->kind)) return (iv_error){.what = IV_UNKNOWN_KIND, .a = h->kind};
    if (h->len > max_frame) return (iv_error){.what = IV_FRAME_TOO_LARGE, .a = h->len, .b = max_frame};
    if (h->meta_len > INVOKED_MAX_METADATA) return (iv_error){.what = IV_METADATA_TOO_LARGE, .a = h->meta_len};
    if (h->meta_len > h->len) return (iv_error){.what = IV_METADATA_BEYOND, .a = h->meta_len, .b = h->len};
    if (h->stream >= UINT64_C(1) << 53) return (iv_error){.what = IV_STREAM_TOO_LARGE, .a = h->stream};
    if (h->nfds > max_fds) return (iv_error){.what = IV_TOO_MANY_FDS, .a = h->nfds};
    return (iv_error){.what = IV_OK};
}

enum iv_stream_rule { IV_RULE_ZERO, IV_RULE_OPENS, IV_RULE_OPEN, IV_RULE_ANY };

static enum iv_stream_rule iv_stream_rule(uint8_t kind) {
    switch (kind) {
#define IV_CASE(kind, name, rule, record, reserved) case INVOKED_FRAME_##kind: return IV_RULE_##rule;
        INVOKED_FRAMES(IV_CASE)
#undef IV_CASE
    default: return IV_RULE_ANY;
    }
}

/* What a whole frame of a known kind can break alone. */
static iv_error iv_check_shape(const iv_header *h) {
    enum iv_stream_rule rule = iv_stream_rule(h->kind);
    if (rule != IV_RULE_ANY && (rule == IV_RULE_ZERO) != (h->stream == 0))
        return (iv_error){.what = IV_WRONG_STREAM, .kind = h->kind};
    bool is_data = h->kind == INVOKED_FRAME_DATA;
    bool continues = is_data && (h->flags & INVOKED_FLAG_CONT), ends = is_data && (h->flags & INVOKED_FLAG_END);
    bool has_message = is_data || h->kind == INVOKED_FRAME_CALL || h->kind == INVOKED_FRAME_RESULT || h->kind == INVOKED_FRAME_ERROR;
    bool recordless = continues || h->kind == INVOKED_FRAME_PING || h->kind == INVOKED_FRAME_PONG ||
                      h->kind == INVOKED_FRAME_CANCEL || h->kind == INVOKED_FRAME_STOP;
    if ((recordless && h->meta_len != 0) || ((!has_message || ends) && h->len != h->meta_len))
        return (iv_error){.what = IV_BODY_MISMATCH};
    if (continues && ends) return (iv_error){.what = IV_UNEXPECTED, .kind = h->kind};
    bool carries = (has_message && !continues && !ends) || h->kind == INVOKED_FRAME_SEGMENT;
    if (h->nfds > 0 && !carries) return (iv_error){.what = IV_FDS_UNCLAIMED, .a = h->nfds};
    return (iv_error){.what = IV_OK};
}

/* ================================================================ the connection, without I/O */
#define IV_CREDIT_MAX ((UINT64_C(1) << 63) - 1)
#define IV_BATCH (256 * 1024)
#define IV_RELEASE_SOON 16
#define IV_BUCKETS 64
#define IV_MAX_FDS 253 /* what one read of the socket can bring */

typedef struct iv_conn iv_conn;
typedef struct iv_stream iv_stream;
typedef struct iv_turn iv_turn;

/* Memory of the daemon that is mapped here, until nothing of it is lent and its segment is gone. */
typedef struct iv_map {
    size_t refs, len;
    void *p;
} iv_map;

static void iv_map_drop(iv_map *map) {
    if (map != NULL && --map->refs == 0) { munmap(map->p, map->len); free(map); }
}

typedef struct iv_segment {
    uint32_t number, generation;
    uint64_t len; /* 0: given up */
    iv_map *map;
} iv_segment;

typedef struct iv_lease {
    uint32_t segment, generation;
    uint64_t offset;
} iv_lease;

enum iv_event_kind {
    IV_WELCOMED, IV_REFUSED, IV_REPLIED, IV_FAILED, IV_CONTINUED, IV_ITEM_CAME, IV_ITEM_CONTINUED, IV_CHANNEL_ENDED,
    IV_CHANNEL_STOPPED, IV_CHANNEL_CREDITED, IV_SEGMENT_CAME, IV_SEGMENT_GONE, IV_LANES_TOLD, IV_WENT_AWAY, IV_PONGED, };

/* What the connection tells its owner; pointers are good until the owner returns. It must not ask anything of the connection
 * meanwhile. File descriptors that it keeps it sets to -1. */
typedef struct iv_event {
    enum iv_event_kind kind;
    uint64_t stream;
    uint32_t channel;
    void *owner; /* of the stream; NULL if nobody waits any more */
    bool has_code;
    uint32_t code;
    const iv_record *record;
    const uint8_t *payload;
    size_t len;
    bool follows;
    uint64_t credit, lagged;
    int *fds;
    size_t nfds;
    iv_segment *segment;
} iv_event;

/* Credit as its sender counts it, and a window as its receiver does. */
typedef struct iv_credit {
    uint64_t left, owed, limit, unsaid;
} iv_credit;

struct iv_turn {
    iv_turn *next, *before;
    bool queued;
    iv_stream *stream;
    struct iv_chan *channel; /* NULL: the stream's own message */
};

typedef struct iv_queue {
    iv_turn *first, *last;
    size_t count;
} iv_queue;

/* A message on its way out: the header and record of its first frame, and its bytes. */
typedef struct iv_outgoing {
    struct iv_outgoing *next;
    iv_buf head, bytes;
    size_t at;
    uint64_t surcharge;
    bool begun;
} iv_outgoing;

typedef struct iv_chan {
    uint32_t index;
    enum { IV_SENDING, IV_RECEIVING, IV_ENDED } half;
    iv_credit credit;
    /* receiving */
    uint64_t remaining;
    bool unwanted, told;
    /* sending */
    bool begun, has_end, wanted;
    iv_outgoing *items, **last_item;
    uint64_t cost;
    iv_buf end;
    iv_turn turn;
} iv_chan;

struct iv_stream {
    iv_stream *next;
    uint64_t id;
    void *owner;
    bool open, begun, cancelled, answering, too_large; /* of the call */
    uint64_t remaining;
    iv_outgoing message;
    iv_turn head, rest;
    iv_chan *channels; /* NULL once all have ended */
    size_t channel_count;
};

struct iv_conn {
    enum { IV_OPENING, IV_OPEN, IV_CLOSED } state;
    uint64_t features, remote_features, instance;
    uint32_t max_frame, remote_max_frame, version_max;
    uint64_t max_message, remote_max_message, open_calls, open_channels, channel_window;
    bool preface_in, welcomed, refused, peer_is_away;
    size_t early_calls, early_bytes;
    /* input */
    iv_buf in;
    size_t in_at;
    int fds[2 * IV_MAX_FDS];
    size_t fd_count;
    /* streams */
    iv_stream *streams[IV_BUCKETS];
    size_t calls, channels;
    uint64_t next_stream;
    iv_credit send_credit, window;
    /* lanes */
    iv_segment segments[INVOKED_MAX_SEGMENTS];
    size_t segment_count;
    uint32_t to_confirm;
    iv_lease *to_release;
    size_t release_count, release_cap;
    /* output */
    iv_buf control;
    iv_queue heads, turns;
    size_t overtaken;
    uint64_t pong_second, pongs, now_us;
    void (*tell)(void *to, iv_event *event);
    void *to;
    bool refuse_segment; /* the owner's verdict on the segment it was just told of */
};

static bool iv_has(const iv_conn *c, uint64_t features) { return (c->features & c->remote_features & features) == features; }

static bool iv_has_lane(const iv_conn *c, uint8_t lane) {
    static const uint64_t needed[] = {0, INVOKED_FEATURE_POOL, INVOKED_FEATURE_SEALED, INVOKED_FEATURE_FILE};
    return lane == INVOKED_LANE_INLINE || iv_has(c, needed[lane] | INVOKED_FEATURE_ATTACHED_FDS);
}

/* ---------------------------------------------------------------- credit */
static iv_credit iv_credit_of(uint64_t bytes) {
    bytes = bytes < IV_CREDIT_MAX ? bytes : IV_CREDIT_MAX;
    return (iv_credit){.left = bytes, .limit = bytes};
}

static uint64_t iv_room(const iv_credit *credit) { return credit->owed > 0 ? 0 : credit->left; }

static void iv_spend(iv_credit *credit, uint64_t all) {
    uint64_t covered = all < credit->left ? all : credit->left;
    credit->owed += all - covered;
    credit->left -= covered;
}

static bool iv_add_credit(iv_credit *credit, uint64_t bytes) {
    uint64_t paid = bytes < credit->owed ? bytes : credit->owed;
    if (bytes - paid > IV_CREDIT_MAX - credit->left) return false;
    credit->owed -= paid;
    credit->left += bytes - paid;
    return true;
}

static bool iv_take_window(iv_credit *window, uint64_t payload, uint64_t surcharge) {
    uint64_t least = surcharge > 0 && payload == 0 ? 1 : payload;
    if (window->owed > 0 || least > window->left) return false;
    iv_spend(window, payload + surcharge);
    return true;
}

/* Gives bytes of a window back; what is to be said to the sender, 0 while it is gathered. */
static uint64_t iv_give_back(iv_credit *window, uint64_t bytes) {
    uint64_t held = window->limit - window->left + window->owed - window->unsaid;
    window->unsaid += bytes < held ? bytes : held;
    if (window->unsaid == 0 || window->unsaid < window->limit / 2 + window->limit % 2) return 0;
    uint64_t said = window->unsaid;
    window->unsaid = 0;
    uint64_t paid = said < window->owed ? said : window->owed;
    window->owed -= paid;
    window->left += said - paid;
    return said;
}

static uint64_t iv_surcharge(uint64_t len) { return len < INVOKED_ITEM_COST_MIN ? INVOKED_ITEM_COST_MIN - len : 0; }

/* ---------------------------------------------------------------- writing */
static void iv_enqueue(iv_queue *queue, iv_turn *turn) {
    turn->queued = true;
    turn->next = NULL;
    turn->before = queue->last;
    *(queue->last != NULL ? &queue->last->next : &queue->first) = turn;
    queue->last = turn;
    queue->count++;
}

static void iv_dequeue(iv_queue *queue, iv_turn *turn) {
    if (!turn->queued) return;
    *(turn->before != NULL ? &turn->before->next : &queue->first) = turn->next;
    *(turn->next != NULL ? &turn->next->before : &queue->last) = turn->before;
    turn->queued = false;
    queue->count--;
}

static void iv_frame(iv_buf *buf, uint8_t kind, uint64_t stream, uint32_t arg, uint16_t flags, const iv_buf *record) {
    size_t len = record != NULL ? record->len : 0;
    uint8_t bytes[INVOKED_HEADER_LEN];
    iv_header header = {.len = (uint32_t)len, .meta_len = (uint16_t)len, .kind = kind, .stream = stream, .arg = arg, .flags = flags};
    iv_header_write(&header, bytes);
    iv_put(buf, bytes, sizeof bytes);
    iv_put(buf, record != NULL ? record->p : NULL, len);
    buf->failed |= record != NULL && record->failed;
}

static void iv_control(iv_conn *c, uint8_t kind, uint64_t stream, uint32_t arg) {
    iv_frame(&c->control, kind, stream, arg, 0, NULL);
}

static void iv_say_credit(iv_conn *c, uint64_t stream, uint32_t channel, uint64_t bytes) {
    iv_buf record = {0};
    iv_put_uint(&record, bytes);
    iv_put_uint(&record, 0);
    iv_frame(&c->control, INVOKED_FRAME_CREDIT, stream, channel, 0, &record);
    iv_buf_free(&record);
}

static size_t iv_conn_room(const iv_conn *c) {
    uint64_t room = iv_has(c, INVOKED_FEATURE_CHANNELS) ? iv_room(&c->send_credit) : SIZE_MAX;
    return room < SIZE_MAX ? (size_t)room : SIZE_MAX;
}

static void iv_spend_conn(iv_conn *c, size_t payload) {
    /* Before the daemon's preface nobody knows whether it counts; it does from the first byte. */
    uint64_t room = iv_room(&c->send_credit);
    iv_spend(&c->send_credit, payload < room ? payload : room);
}

static bool iv_chan_can_go(const iv_chan *ch, size_t room) {
    if (!ch->begun) return false;
    if (ch->items == NULL) return ch->has_end;
    return iv_room(&ch->credit) > 0 && (room > 0 || ch->items->at == ch->items->bytes.len);
}

static void iv_chan_changed(iv_conn *c, iv_chan *ch) {
    bool lacks = ch->items == NULL ? !ch->has_end : iv_room(&ch->credit) == 0;
    if (!lacks && ch->begun && !ch->turn.queued) iv_enqueue(&c->turns, &ch->turn);
}

static void iv_outgoing_free(iv_outgoing *o) {
    iv_buf_free(&o->head);
    iv_buf_free(&o->bytes);
}

static void iv_chan_clear(iv_chan *ch) {
    while (ch->items != NULL) {
        iv_outgoing *item = ch->items;
        ch->items = item->next;
        iv_outgoing_free(item);
        free(item);
    }
    ch->last_item = &ch->items;
    ch->cost = 0;
}

static iv_stream *iv_find(const iv_conn *c, uint64_t id) {
    iv_stream *s = c->streams[(id >> 1) % IV_BUCKETS];
    while (s != NULL && s->id != id) s = s->next;
    return s;
}

static iv_chan *iv_find_chan(const iv_stream *s, uint32_t index) {
    for (size_t i = 0; s != NULL && s->channels != NULL && i < s->channel_count; i++)
        if (s->channels[i].index == index) return &s->channels[i];
    return NULL;
}

static void iv_drop_channels(iv_conn *c, iv_stream *s) {
    for (size_t i = 0; s->channels != NULL && i < s->channel_count; i++) {
        iv_chan *ch = &s->channels[i];
        iv_dequeue(&c->turns, &ch->turn);
        iv_chan_clear(ch);
        iv_buf_free(&ch->end);
        c->channels -= ch->half != IV_ENDED;
    }
    free(s->channels);
    s->channels = NULL;
}

/* Forgets a stream of which nothing is open. */
static void iv_settle(iv_conn *c, iv_stream *s) {
    bool ended = s->channels != NULL && (!s->open || s->answering);
    for (size_t i = 0; ended && i < s->channel_count; i++) ended = s->channels[i].half == IV_ENDED;
    if (ended) iv_drop_channels(c, s);
    if (s->open || s->channels != NULL) return;
    iv_stream **at = &c->streams[(s->id >> 1) % IV_BUCKETS];
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    iv_dequeue(&c->heads, &s->head);
    iv_dequeue(&c->turns, &s->rest);
    iv_outgoing_free(&s->message);
    free(s);
}

static void iv_end_call(iv_conn *c, iv_stream *s) {
    c->calls -= s->open;
    s->open = false;
}

/* Sends no more of a call's message: whether nothing of it was sent. */
static bool iv_withdraw(iv_conn *c, iv_stream *s) {
    bool whole = s->head.queued;
    iv_dequeue(&c->heads, &s->head);
    iv_dequeue(&c->turns, &s->rest);
    iv_outgoing_free(&s->message);
    return whole;
}

static void iv_fill_head(iv_conn *c, iv_buf *out, iv_stream *s) {
    iv_outgoing *o = &s->message;
    size_t fragment = c->remote_max_frame - (o->head.len - INVOKED_HEADER_LEN), room = iv_conn_room(c);
    fragment = fragment < INVOKED_FRAGMENT ? fragment : INVOKED_FRAGMENT;
    size_t len = o->bytes.len < fragment ? o->bytes.len : fragment;
    len = len < room ? len : room;
    size_t before = out->len;
    uint16_t flags = (uint16_t)iv_load(o->head.p + 6, 2);
    iv_store(o->head.p, o->head.len - INVOKED_HEADER_LEN + len, 4);
    iv_store(o->head.p + 6, flags | (len < o->bytes.len ? INVOKED_FLAG_MORE : 0), 2);
    iv_put(out, o->head.p, o->head.len);
    iv_put(out, o->bytes.p, len);
    iv_spend_conn(c, len);
    o->at = len;
    s->begun = true;
    iv_dequeue(&c->heads, &s->head);
    c->overtaken += c->turns.count > 0 ? out->len - before : 0;
    if (o->at < o->bytes.len)
        iv_enqueue(&c->turns, &s->rest);
    else
        iv_outgoing_free(o);
    for (size_t i = 0; s->channels != NULL && i < s->channel_count; i++) {
        iv_chan *ch = &s->channels[i];
        if (ch->half == IV_RECEIVING && ch->unwanted) iv_control(c, INVOKED_FRAME_STOP, s->id, ch->index);
        ch->begun = true;
        if (ch->half == IV_SENDING) iv_chan_changed(c, ch);
    }
}

static size_t iv_least(size_t a, size_t b, size_t d) {
    a = a < b ? a : b;
    return a < d ? a : d;
}

static void iv_fill_rest(iv_conn *c, iv_buf *out, iv_stream *s) {
    iv_outgoing *o = &s->message;
    uint8_t bytes[INVOKED_HEADER_LEN];
    size_t most = iv_least(iv_conn_room(c), c->remote_max_frame, INVOKED_FRAGMENT), left = o->bytes.len - o->at;
    size_t len = left < most ? left : most;
    iv_header header = {.len = (uint32_t)len, .kind = INVOKED_FRAME_DATA, .stream = s->id,
                        .flags = (uint16_t)(INVOKED_FLAG_CONT | (len < left ? INVOKED_FLAG_MORE : 0))};
    iv_header_write(&header, bytes);
    iv_put(out, bytes, sizeof bytes);
    iv_put(out, o->bytes.p + o->at, len);
    iv_spend_conn(c, len);
    o->at += len;
    if (len < left)
        iv_enqueue(&c->turns, &s->rest);
    else
        iv_outgoing_free(o);
}

static void iv_fill_item(iv_conn *c, iv_buf *out, iv_stream *s, iv_chan *ch) {
    iv_outgoing *o = ch->items;
    uint64_t credit = iv_room(&ch->credit);
    size_t meta = o->begun ? 0 : o->head.len, left = o->bytes.len - o->at;
    size_t most = iv_least(iv_conn_room(c), c->remote_max_frame - meta, INVOKED_FRAGMENT);
    most = credit < most ? (size_t)credit : most;
    size_t len = left < most ? left : most;
    uint8_t bytes[INVOKED_HEADER_LEN];
    /* The codec of part 0 is the first byte of the first part, after the count. */
    iv_header header = {.len = (uint32_t)(meta + len), .meta_len = (uint16_t)meta, .kind = INVOKED_FRAME_DATA, .stream = s->id,
                        .arg = ch->index, .codec = o->begun ? 0 : o->head.p[1],
                        .flags = (uint16_t)((o->begun ? INVOKED_FLAG_CONT : 0) | (len < left ? INVOKED_FLAG_MORE : 0))};
    iv_header_write(&header, bytes);
    iv_put(out, bytes, sizeof bytes);
    iv_put(out, o->head.p, meta);
    iv_put(out, o->bytes.p != NULL ? o->bytes.p + o->at : NULL, len);
    uint64_t all = len + (o->begun ? 0 : o->surcharge);
    iv_spend(&ch->credit, all);
    iv_spend_conn(c, len);
    ch->cost -= all;
    o->at += len;
    o->begun = true;
    if (o->at == o->bytes.len) {
        ch->items = o->next;
        ch->last_item = ch->items != NULL ? ch->last_item : &ch->items;
        iv_outgoing_free(o);
        free(o);
    }
}

static void iv_fill_channel(iv_conn *c, iv_buf *out, iv_stream *s, iv_chan *ch) {
    size_t start = out->len;
    while (out->len - start < INVOKED_FRAGMENT && !out->failed && iv_chan_can_go(ch, iv_conn_room(c))) {
        if (ch->items != NULL) { iv_fill_item(c, out, s, ch); continue; }
        iv_put(out, ch->end.p, ch->end.len);
        ch->half = IV_ENDED;
        c->channels--;
        iv_settle(c, s);
        return;
    }
    iv_chan_changed(c, ch);
}

static bool iv_fill_turn(iv_conn *c, iv_buf *out) {
    for (size_t left = c->turns.count; left > 0; left--) {
        iv_turn *turn = c->turns.first;
        size_t room = iv_conn_room(c);
        iv_dequeue(&c->turns, turn);
        if (turn->channel != NULL ? iv_chan_can_go(turn->channel, room) : room > 0) {
            c->overtaken = 0;
            if (turn->channel != NULL)
                iv_fill_channel(c, out, turn->stream, turn->channel);
            else
                iv_fill_rest(c, out, turn->stream);
            return true;
        }
        /* A channel without credit comes back into turn with it. */
        if (turn->channel == NULL || (iv_room(&turn->channel->credit) > 0 && turn->channel->begun)) iv_enqueue(&c->turns, turn);
    }
    return false;
}

static void iv_queue_releases(iv_conn *c) {
    while (c->state != IV_CLOSED && (c->to_confirm > 0 || c->release_count > 0)) {
        iv_buf record = {0};
        size_t count = c->release_count < 1024 ? c->release_count : 1024;
        iv_put_uint(&record, c->to_confirm);
        iv_put_uint(&record, count);
        for (size_t i = 0; i < count; i++) {
            iv_put_uint(&record, c->to_release[i].segment);
            iv_put_uint(&record, c->to_release[i].generation);
            iv_put_uint(&record, c->to_release[i].offset);
        }
        iv_put_uint(&record, 0);
        iv_frame(&c->control, INVOKED_FRAME_RELEASE, 0, 0, 0, &record);
        iv_buf_free(&record);
        c->to_confirm = 0;
        c->release_count -= count;
        if (c->release_count > 0) memmove(c->to_release, c->to_release + count, c->release_count * sizeof *c->to_release);
    }
}

/* Adds what can be sent now to `out`, up to a batch: whether that was anything. */
static bool iv_conn_fill(iv_conn *c, iv_buf *out) {
    size_t start = out->len;
    iv_queue_releases(c);
    while (out->len - start < IV_BATCH && !out->failed) {
        if (c->control.len > 0) {
            iv_put(out, c->control.p, c->control.len);
            c->control.len = 0;
        } else if (c->state == IV_CLOSED) {
            break;
        } else if (c->overtaken >= INVOKED_FRAGMENT && c->turns.count > 0) {
            c->overtaken = 0;
            iv_fill_turn(c, out);
        } else if (c->heads.first != NULL) {
            iv_fill_head(c, out, c->heads.first->stream);
        } else if (!iv_fill_turn(c, out)) {
            break;
        }
    }
    return out->len > start;
}

/* Whether there is something to send that can be sent, or that presses. */
static bool iv_conn_has_output(const iv_conn *c) {
    bool can = c->control.len > 0 || c->to_confirm > 0 || c->release_count >= IV_RELEASE_SOON || c->heads.count > 0;
    for (const iv_turn *turn = c->turns.first; turn != NULL && !can && c->state != IV_CLOSED; turn = turn->next)
        can = turn->channel != NULL ? iv_chan_can_go(turn->channel, iv_conn_room(c)) : iv_conn_room(c) > 0;
    return can;
}

/* ---------------------------------------------------------------- beginning and end */
static void iv_close_fds(int *fds, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0) close(fds[i]);
}

/* Forgets all that is open: nothing more is read, and only control frames are still written. */
static void iv_stop(iv_conn *c) {
    c->state = IV_CLOSED;
    c->in.len = c->in_at = 0;
    iv_close_fds(c->fds, c->fd_count);
    c->fd_count = 0;
    for (size_t i = 0; i < IV_BUCKETS; i++)
        while (c->streams[i] != NULL) {
            iv_end_call(c, c->streams[i]);
            iv_drop_channels(c, c->streams[i]);
            iv_settle(c, c->streams[i]);
        }
    for (size_t i = 0; i < c->segment_count; i++) iv_map_drop(c->segments[i].map);
    c->segment_count = c->release_count = 0;
    c->to_confirm = 0;
}

static void iv_conn_free(iv_conn *c) {
    iv_stop(c);
    iv_buf_free(&c->in);
    iv_buf_free(&c->control);
    free(c->to_release);
    c->to_release = NULL;
}

/* Says why it ends the connection, if the peer can understand it, and ends it. */
static iv_error iv_conn_refuse(iv_conn *c, iv_error error) {
    char text[200];
    if (c->state == IV_CLOSED) return error;
    iv_stop(c);
    if (c->preface_in && !c->refused) {
        iv_buf record = {0};
        iv_error_text(&error, text, sizeof text);
        iv_put_uint(&record, 0);
        iv_put_text(&record, text);
        iv_put_uint(&record, 0);
        iv_frame(&c->control, INVOKED_FRAME_GOAWAY, 0, iv_fault_code(error.what), 0, &record);
        iv_buf_free(&record);
    } else {
        c->control.len = 0;
    }
    return error;
}

/* Begins a connection: its preface and HELLO, of which `hello` is the record, wait to be sent. */
static int iv_conn_begin(iv_conn *c, uint64_t features, uint32_t max_frame, uint64_t instance, const iv_buf *hello) {
    uint8_t preface[INVOKED_PREFACE_LEN] = INVOKED_MAGIC;
    iv_record record;
    iv_error error = {.what = IV_OK};
    if (hello->failed) return -ENOMEM;
    if (hello->len > INVOKED_HANDSHAKE_MAX - INVOKED_PREFACE_LEN - INVOKED_HEADER_LEN ||
        iv_decode(IV_HELLO, hello->p, hello->len, &record, &error) != IV_RECORD_OK)
        return -EINVAL;
    c->features = features;
    c->max_frame = max_frame;
    c->remote_max_frame = (uint32_t)INVOKED_MAX_FRAME_FLOOR;
    c->max_message = c->remote_max_message = INVOKED_MAX_MESSAGE;
    c->open_calls = INVOKED_OPEN_CALLS;
    c->open_channels = INVOKED_OPEN_CHANNELS;
    c->channel_window = INVOKED_CHANNEL_WINDOW;
    c->send_credit = c->window = iv_credit_of(INVOKED_CONNECTION_WINDOW);
    c->next_stream = 1;
    iv_store(preface + 8, INVOKED_WIRE_VERSION, 2);
    iv_store(preface + 10, INVOKED_WIRE_VERSION, 2);
    iv_store(preface + 12, max_frame, 4);
    iv_store(preface + 16, features, 8);
    iv_store(preface + 24, instance, 8);
    iv_put(&c->control, preface, sizeof preface);
    iv_frame(&c->control, INVOKED_FRAME_HELLO, 0, 0, 0, hello);
    return c->control.failed ? -ENOMEM : 0;
}

/* ---------------------------------------------------------------- asking */
/* A request with its message encoded. `parts` and `bytes` are made by iv_encode_content. */
typedef struct iv_ask {
    const char *command;
    const invoked_header *headers;
    size_t header_count;
    bool has_deadline;
    uint64_t deadline_us;
    const invoked_channel *channels;
    size_t channel_count;
    uint16_t flags;
    uint8_t codec;
} iv_ask;

static int iv_encode_content(const invoked_content *content, uint64_t max, iv_buf *parts, iv_buf *bytes) {
    size_t total = content->body.len;
    if ((unsigned)content->codec > INVOKED_CODEC_JSON || content->attachment_count >= INVOKED_MAX_PARTS ||
        (content->codec == INVOKED_CODEC_NONE && content->body.len > 0))
        return -EINVAL;
    for (size_t i = 0; i <= content->attachment_count; i++) {
        const invoked_bytes *part = i == 0 ? &content->body : &content->attachments[i - 1];
        if (part->len > max || (i > 0 && (total += part->len) > max) || total > max) return -EMSGSIZE;
    }
    iv_put_uint(parts, 1 + content->attachment_count);
    for (size_t i = 0; i <= content->attachment_count; i++) {
        const invoked_bytes *part = i == 0 ? &content->body : &content->attachments[i - 1];
        iv_put_byte(parts, i == 0 ? (uint8_t)content->codec : INVOKED_CODEC_RAW);
        iv_put_uint(parts, part->len);
        iv_put_uint(parts, INVOKED_LANE_INLINE);
        iv_put(bytes, part->ptr, part->len);
    }
    return parts->failed || bytes->failed ? -ENOMEM : 0;
}

static void iv_encode_call(const iv_ask *ask, const iv_buf *parts, iv_buf *out) {
    uint8_t overflow[5 * INVOKED_MAX_CHANNELS_PER_CALL];
    size_t lossy = 0;
    iv_put_text(out, ask->command);
    iv_put_uint(out, ask->header_count);
    for (size_t i = 0; i < ask->header_count; i++) {
        iv_put_text(out, ask->headers[i].key);
        iv_put_text(out, ask->headers[i].value);
    }
    iv_put_byte(out, ask->has_deadline);
    if (ask->has_deadline) iv_put_uint(out, ask->deadline_us);
    iv_put_uint(out, ask->channel_count);
    for (size_t i = 0; i < ask->channel_count; i++) {
        const invoked_channel *channel = &ask->channels[i];
        iv_put_uint(out, channel->index);
        iv_put_byte(out, (uint8_t)channel->direction);
        iv_put_uint(out, channel->direction == INVOKED_DIRECTION_DOWN ? channel->window : 0);
        if (channel->overflow != INVOKED_OVERFLOW_BLOCK && lossy < sizeof overflow) {
            iv_store(overflow + lossy, channel->index, 4);
            overflow[lossy + 4] = (uint8_t)channel->overflow;
            lossy += 5;
        }
    }
    iv_put(out, parts->p, parts->len);
    iv_put_uint(out, lossy > 0);
    if (lossy > 0) { iv_put_uint(out, INVOKED_TAG_OVERFLOW); iv_put_bytes(out, overflow, lossy); }
}

static void iv_open_channels(iv_conn *c, iv_stream *s, const iv_ask *ask) {
    for (size_t i = 0; i < ask->channel_count; i++) {
        iv_chan *ch = &s->channels[i];
        bool down = ask->channels[i].direction == INVOKED_DIRECTION_DOWN;
        *ch = (iv_chan){.index = ask->channels[i].index, .half = down ? IV_RECEIVING : IV_SENDING,
                        .credit = iv_credit_of(down ? ask->channels[i].window : c->channel_window)};
        ch->last_item = &ch->items;
        ch->turn.stream = s;
        ch->turn.channel = ch;
    }
    s->channel_count = ask->channel_count;
    c->channels += ask->channel_count;
}

/* Opens a call: its stream, or a negative errno. The bytes of `bytes` become the connection's. */
static int64_t iv_conn_call(iv_conn *c, const iv_ask *ask, const iv_buf *parts, iv_buf *bytes, void *owner) {
    iv_record record;
    iv_error error = {.what = IV_OK};
    if (c->state == IV_CLOSED || c->peer_is_away) return -ENOTCONN;
    if (c->calls >= c->open_calls || c->channels + ask->channel_count > c->open_channels) return -EBUSY;
    if (c->next_stream >= UINT64_C(1) << 53) return -EOVERFLOW;
    if (ask->channel_count > 0 && !iv_has(c, INVOKED_FEATURE_CHANNELS)) return -EOPNOTSUPP;
    iv_stream *s = calloc(1, sizeof *s);
    iv_chan *channels = ask->channel_count > 0 ? calloc(ask->channel_count, sizeof *channels) : NULL;
    iv_buf meta = {0};
    int64_t result = s == NULL || (ask->channel_count > 0 && channels == NULL) ? -ENOMEM : 0;
    if (result == 0) {
        iv_encode_call(ask, parts, &meta);
        if (meta.failed)
            result = -ENOMEM;
        else if (meta.len > INVOKED_MAX_METADATA)
            result = -EMSGSIZE;
        else if (iv_decode(IV_CALL, meta.p, meta.len, &record, &error) != IV_RECORD_OK)
            result = -EINVAL;
    }
    if (result == 0 && !c->welcomed) {
        size_t early = INVOKED_HEADER_LEN + meta.len + bytes->len;
        if (c->early_calls >= INVOKED_EARLY_CALLS || c->early_bytes + early > INVOKED_EARLY_BYTES) result = -EBUSY;
        c->early_calls++;
        c->early_bytes += early;
    }
    if (result == 0) {
        iv_frame(&s->message.head, INVOKED_FRAME_CALL, c->next_stream, 0, ask->flags, &meta);
        result = s->message.head.failed ? -ENOMEM : 0;
    }
    iv_buf_free(&meta);
    if (result != 0) {
        if (s != NULL) iv_outgoing_free(&s->message);
        free(s);
        free(channels);
        return result;
    }
    s->message.head.p[5] = ask->codec;
    s->id = c->next_stream;
    s->owner = owner;
    s->open = true;
    s->message.bytes = *bytes;
    memset(bytes, 0, sizeof *bytes);
    s->channels = channels;
    s->head.stream = s->rest.stream = s;
    iv_open_channels(c, s, ask);
    iv_stream **bucket = &c->streams[(s->id >> 1) % IV_BUCKETS];
    s->next = *bucket;
    *bucket = s;
    c->calls++;
    c->next_stream += 2;
    iv_enqueue(&c->heads, &s->head);
    return (int64_t)s->id;
}

static void iv_put_end(iv_chan *ch, uint64_t stream, uint32_t code, const char *message) {
    iv_buf record = {0};
    ch->end.len = 0;
    iv_put_byte(&record, code != INVOKED_CODE_APPLICATION);
    if (code != INVOKED_CODE_APPLICATION) iv_put_uint(&record, code);
    iv_put_text(&record, message);
    iv_put_uint(&record, 0);
    iv_frame(&ch->end, INVOKED_FRAME_DATA, stream, ch->index, INVOKED_FLAG_END, &record);
    iv_buf_free(&record);
    ch->has_end = true;
}

/* Sends an item: 0, -EAGAIN without credit for it, -EPIPE once the channel has ended. `bytes` become the connection's. */
static int iv_conn_send(iv_conn *c, uint64_t stream, uint32_t index, const iv_buf *parts, iv_buf *bytes) {
    iv_stream *s = iv_find(c, stream);
    iv_chan *ch = iv_find_chan(s, index);
    if (ch == NULL || ch->half != IV_SENDING || ch->has_end) return ch != NULL && ch->half == IV_RECEIVING ? -EINVAL : -EPIPE;
    if (ch->cost > INVOKED_FRAGMENT || iv_room(&ch->credit) <= ch->cost) { ch->wanted = true; return -EAGAIN; }
    iv_outgoing *item = calloc(1, sizeof *item);
    if (item == NULL) return -ENOMEM;
    iv_put(&item->head, parts->p, parts->len);
    iv_put_uint(&item->head, 0);
    if (item->head.failed) {
        iv_outgoing_free(item);
        free(item);
        return -ENOMEM;
    }
    item->bytes = *bytes;
    memset(bytes, 0, sizeof *bytes);
    item->surcharge = iv_surcharge(item->bytes.len);
    ch->cost += item->bytes.len + item->surcharge;
    *ch->last_item = item;
    ch->last_item = &item->next;
    iv_chan_changed(c, ch);
    return 0;
}

static bool iv_conn_end(iv_conn *c, uint64_t stream, uint32_t index, uint32_t code, const char *message) {
    iv_chan *ch = iv_find_chan(iv_find(c, stream), index);
    if (ch == NULL || ch->half != IV_SENDING || ch->has_end) return false;
    iv_put_end(ch, stream, code, message);
    iv_chan_changed(c, ch);
    return true;
}

static bool iv_cut(iv_conn *c, iv_stream *s, iv_chan *ch) {
    bool was_open = ch->half == IV_SENDING && !ch->has_end;
    if (ch->half == IV_SENDING) {
        iv_chan_clear(ch);
        iv_put_end(ch, s->id, INVOKED_CODE_CANCELLED, "");
        iv_chan_changed(c, ch);
    }
    return was_open;
}

static bool iv_conn_stop(iv_conn *c, uint64_t stream, uint32_t index) {
    iv_stream *s = iv_find(c, stream);
    iv_chan *ch = iv_find_chan(s, index);
    if (ch == NULL || ch->half != IV_RECEIVING || ch->unwanted) return false;
    ch->unwanted = true;
    if (s->begun) /* it must not overtake the call, which declares the channel */
        iv_control(c, INVOKED_FRAME_STOP, stream, index);
    return true;
}

static void iv_conn_give_credit(iv_conn *c, uint64_t stream, uint32_t index, uint64_t bytes) {
    iv_chan *ch = iv_find_chan(iv_find(c, stream), index);
    if (ch != NULL && ch->half == IV_RECEIVING && !ch->unwanted) {
        uint64_t said = iv_give_back(&ch->credit, bytes);
        if (said > 0) iv_say_credit(c, stream, index, said);
    }
}

enum iv_withdrawal { IV_NEVER_SENT, IV_ASKED, IV_TOO_LATE };

static enum iv_withdrawal iv_conn_cancel(iv_conn *c, uint64_t stream) {
    iv_stream *s = iv_find(c, stream);
    if (s == NULL) return IV_TOO_LATE;
    if (s->open && !s->answering) {
        if (s->cancelled) return IV_TOO_LATE;
        if (iv_withdraw(c, s)) {
            iv_end_call(c, s);
            iv_drop_channels(c, s);
            iv_settle(c, s);
            return IV_NEVER_SENT;
        }
        s->cancelled = true;
        iv_control(c, INVOKED_FRAME_CANCEL, stream, 0);
        return IV_ASKED;
    }
    bool asked = false;
    for (size_t i = 0; s->channels != NULL && i < s->channel_count; i++)
        asked |= iv_conn_stop(c, stream, s->channels[i].index) || iv_cut(c, s, &s->channels[i]);
    return asked ? IV_ASKED : IV_TOO_LATE;
}

static void iv_conn_release(iv_conn *c, iv_lease lease) {
    if (c->state == IV_CLOSED) return;
    if (c->release_count == c->release_cap) {
        size_t cap = c->release_cap > 0 ? 2 * c->release_cap : 16;
        iv_lease *more = realloc(c->to_release, cap * sizeof *more);
        if (more == NULL)
            return; /* it stays lent until the connection ends */
        c->to_release = more;
        c->release_cap = cap;
    }
    c->to_release[c->release_count++] = lease;
}

static void iv_release_parts(iv_conn *c, const iv_field *parts) {
    iv_reader r = iv_list(parts);
    iv_element e;
    while (iv_each(&r, IV_PARTS, &e))
        if (e.part.place == INVOKED_LANE_POOL)
            iv_conn_release(c, (iv_lease){e.part.segment, e.part.generation, e.part.offset});
}

/* ---------------------------------------------------------------- reading */
typedef struct iv_frame_in {
    iv_header h;
    const uint8_t *metadata, *payload;
    size_t len; /* of the payload */
    int *fds;
} iv_frame_in;

#define IV_ERROR(...) ((iv_error){.what = __VA_ARGS__})
#define IV_FINE ((iv_error){.what = IV_OK})

static iv_error iv_read_record(enum iv_schema_id id, const iv_frame_in *f, iv_record *record) {
    iv_error error = {.kind = f->h.kind};
    error.record = iv_decode(id, f->metadata, f->h.meta_len, record, &error);
    error.what = error.record == IV_RECORD_OK ? IV_OK : IV_RECORD;
    return error;
}

/* Where a stream stands that a frame names: 1 open in some way, 0 ended, -1 never opened. */
static int iv_known(const iv_conn *c, uint64_t stream) {
    if (iv_find(c, stream) != NULL) return 1;
    return stream % 2 == 1 && stream < c->next_stream ? 0 : -1;
}

static iv_error iv_check_part(const iv_conn *c, size_t at, const iv_part *part, unsigned nfds) {
    if (part->place == INVOKED_LANE_INLINE) return IV_FINE;
    if (!iv_has_lane(c, part->place)) return IV_ERROR(IV_FEATURE);
    if (part->place == INVOKED_LANE_POOL) {
        for (size_t i = 0; i < c->segment_count; i++) {
            const iv_segment *s = &c->segments[i];
            if (s->number == part->segment && s->generation == part->generation && part->offset <= s->len &&
                part->len <= s->len - part->offset && s->len > 0)
                return IV_FINE;
        }
        return IV_ERROR(IV_NO_SEGMENT, .a = part->segment);
    }
    if (part->place == INVOKED_LANE_FILE && (at > 0 || part->codec != INVOKED_CODEC_RAW)) return IV_ERROR(IV_BODY_MISMATCH);
    return part->fd < nfds ? IV_FINE : IV_ERROR(IV_NO_FILE, .a = part->fd);
}

/* Checks the parts of a message against its first frame: their inline bytes, and those that are held here. */
static iv_error iv_check_parts(const iv_conn *c, const iv_field *parts, const iv_frame_in *f, bool no_fds, uint64_t *total, uint64_t *held) {
    iv_reader r = iv_list(parts);
    iv_element e;
    bool overflows = false;
    *total = *held = 0;
    for (size_t at = 0; iv_each(&r, IV_PARTS, &e); at++) {
        if (no_fds && (e.part.place == INVOKED_LANE_SEALED || e.part.place == INVOKED_LANE_FILE)) return IV_ERROR(IV_FEATURE);
        if (at == 0 && e.part.codec != f->h.codec) return IV_ERROR(IV_BODY_MISMATCH);
        iv_error error = iv_check_part(c, at, &e.part, f->h.nfds);
        if (error.what != IV_OK) return error;
        overflows |= e.part.place != INVOKED_LANE_FILE && e.part.len > UINT64_MAX - *held;
        *held += e.part.place != INVOKED_LANE_FILE ? e.part.len : 0;
        *total += e.part.place == INVOKED_LANE_INLINE ? e.part.len : 0;
    }
    bool more = (f->h.flags & INVOKED_FLAG_MORE) != 0;
    return overflows || f->len > *total || more != (f->len < *total) ? IV_ERROR(IV_MESSAGE_LENGTH) : IV_FINE;
}

static void iv_tell(iv_conn *c, iv_event event) {
    c->tell(c->to, &event);
}

/* Tells an error of the framework that did not come as a frame. */
static void iv_tell_failure(iv_conn *c, const iv_stream *s, uint32_t code, int delivery, const char *message) {
    iv_buf bytes = {0};
    iv_record record;
    iv_error error = {.what = IV_OK};
    bool retryable = false;
#define IV_CASE(value, name, may) retryable |= (value) == code && (may);
    INVOKED_CODES(IV_CASE)
#undef IV_CASE
    iv_put_text(&bytes, message);
    iv_put_byte(&bytes, (uint8_t)delivery);
    iv_put_byte(&bytes, retryable);
    iv_put(&bytes, "\0\0\1\0\0\0\0", 7); /* no time, no decision, one empty part, no extension */
    if (!bytes.failed && iv_decode(IV_FAILURE, bytes.p, bytes.len, &record, &error) == IV_RECORD_OK)
        iv_tell(c, (iv_event){.kind = IV_FAILED, .stream = s->id, .owner = s->owner, .has_code = true, .code = code, .record = &record});
    iv_buf_free(&bytes);
}

static void iv_fail_channels(iv_conn *c, iv_stream *s, uint32_t code, const iv_field *message) {
    for (size_t i = 0; s->channels != NULL && i < s->channel_count; i++) {
        const iv_chan *ch = &s->channels[i];
        iv_event event = {.stream = s->id, .channel = ch->index, .owner = s->owner, .has_code = true, .code = code,
                          .payload = message->span, .len = message->len, .kind = IV_CHANNEL_ENDED};
        if (ch->half == IV_SENDING && !ch->has_end) {
            event = (iv_event){.kind = IV_CHANNEL_STOPPED, .stream = s->id, .channel = ch->index, .owner = s->owner};
            iv_tell(c, event);
        } else if (ch->half == IV_RECEIVING && !ch->told) {
            iv_tell(c, event);
        }
    }
    iv_drop_channels(c, s);
}

static uint32_t iv_known_code(uint64_t code) {
#define IV_CASE(value, name, may) if (code == (value)) return (uint32_t)code;
    INVOKED_CODES(IV_CASE)
#undef IV_CASE
    return INVOKED_CODE_UNKNOWN;
}

static iv_error iv_on_goaway(iv_conn *c, const iv_frame_in *f) {
    iv_record notice;
    iv_error error = iv_read_record(IV_GOAWAY, f, &notice);
    if (error.what != IV_OK) return error;
    bool has_code = f->h.arg != 0;
    uint32_t code = has_code ? iv_known_code(f->h.arg) : INVOKED_CODE_UNAVAILABLE;
    uint64_t last = notice.f[IV_GOAWAY_LAST].number, done = last;
    char why[INVOKED_REFUSAL_REASON_MAX + 1];
    iv_copy_text(why, sizeof why, notice.f[IV_GOAWAY_MESSAGE].span, notice.f[IV_GOAWAY_MESSAGE].len);
    c->peer_is_away = true;
    iv_tell(c, (iv_event){.kind = IV_WENT_AWAY, .has_code = has_code, .code = code, .record = &notice});
    for (;;) { /* in the order of streams */
        iv_stream *first = NULL;
        for (size_t i = 0; i < IV_BUCKETS; i++)
            for (iv_stream *s = c->streams[i]; s != NULL; s = s->next)
                if (s->open && !s->answering && s->id > done && (first == NULL || s->id < first->id)) first = s;
        if (first == NULL) return IV_FINE;
        done = first->id;
        iv_withdraw(c, first);
        iv_tell_failure(c, first, code, INVOKED_DELIVERY_NOT_DELIVERED, why);
        iv_end_call(c, first);
        iv_fail_channels(c, first, code, &notice.f[IV_GOAWAY_MESSAGE]);
        iv_settle(c, first);
    }
}

static void iv_take_limits(iv_conn *c, const iv_field *limits) {
    iv_reader r = iv_list(limits);
    iv_element e;
    while (iv_each(&r, IV_LIMITS, &e)) {
        uint64_t *least = e.a == INVOKED_LIMIT_MAX_MESSAGE ? &c->remote_max_message : e.a == INVOKED_LIMIT_OPEN_CALLS ? &c->open_calls
                          : e.a == INVOKED_LIMIT_OPEN_CHANNELS ? &c->open_channels : NULL;
        if (least != NULL && e.b < *least) *least = e.b;
        if (e.a == INVOKED_LIMIT_CHANNEL_WINDOW) c->channel_window = e.b;
        if (e.a == INVOKED_LIMIT_CONNECTION_WINDOW) {
            uint64_t left = c->send_credit.left + (e.b < IV_CREDIT_MAX ? e.b : IV_CREDIT_MAX);
            left = left > INVOKED_CONNECTION_WINDOW ? left - INVOKED_CONNECTION_WINDOW : 0;
            c->send_credit.left = left < IV_CREDIT_MAX ? left : IV_CREDIT_MAX;
            c->window = iv_credit_of(e.b);
        }
    }
}

static iv_error iv_on_handshake(iv_conn *c, const iv_frame_in *f) {
    iv_record welcome;
    if (f->h.kind == INVOKED_FRAME_GOAWAY) return iv_on_goaway(c, f);
    if (f->h.kind != INVOKED_FRAME_WELCOME || c->welcomed) return IV_ERROR(IV_UNEXPECTED, .kind = f->h.kind);
    iv_error error = iv_read_record(IV_WELCOME, f, &welcome);
    if (error.what != IV_OK) return error;
    c->welcomed = true;
    c->state = IV_OPEN;
    iv_take_limits(c, &welcome.f[IV_WELCOME_LIMITS]);
    iv_tell(c, (iv_event){.kind = IV_WELCOMED, .record = &welcome});
    return IV_FINE;
}

/* A RESULT or ERROR for a call that has ended: what it lends is given back. */
static iv_error iv_drop_terminal(iv_conn *c, const iv_frame_in *f) {
    iv_record record;
    bool is_result = f->h.kind == INVOKED_FRAME_RESULT;
    if (!iv_has_lane(c, INVOKED_LANE_POOL)) return IV_FINE;
    iv_error error = iv_read_record(is_result ? IV_REPLY : IV_FAILURE, f, &record);
    if (error.what != IV_OK) return error;
    const iv_field *parts = &record.f[is_result ? IV_REPLY_PARTS : IV_FAILURE_PARTS];
    iv_reader r = iv_list(parts);
    iv_element e;
    for (size_t at = 0; iv_each(&r, IV_PARTS, &e); at++) {
        error = iv_check_part(c, at, &e.part, f->h.nfds);
        if (error.what != IV_OK) return error;
    }
    iv_release_parts(c, parts);
    return IV_FINE;
}

static iv_error iv_on_terminal(iv_conn *c, const iv_frame_in *f) {
    iv_stream *s = iv_find(c, f->h.stream);
    iv_record record;
    uint64_t total, held;
    char text[120];
    if (s == NULL || !s->open)
        return s != NULL || iv_known(c, f->h.stream) >= 0 ? iv_drop_terminal(c, f) : IV_ERROR(IV_UNKNOWN_STREAM, .a = f->h.stream);
    if (s->answering) return IV_ERROR(IV_UNEXPECTED, .kind = f->h.kind);
    bool is_result = f->h.kind == INVOKED_FRAME_RESULT;
    iv_error error = iv_read_record(is_result ? IV_REPLY : IV_FAILURE, f, &record);
    if (error.what != IV_OK) return error;
    const iv_field *parts = &record.f[is_result ? IV_REPLY_PARTS : IV_FAILURE_PARTS];
    error = iv_check_parts(c, parts, f, false, &total, &held);
    if (error.what != IV_OK) return error;
    uint32_t code = is_result ? INVOKED_CODE_APPLICATION : iv_known_code(f->h.arg);
    /* The answer may come before all of the question is sent: the rest is of no use. */
    iv_withdraw(c, s);
    s->remaining = total - f->len;
    s->answering = s->remaining > 0;
    if (!s->answering) iv_end_call(c, s);
    if (held > c->max_message) {
        s->too_large = true;
        iv_release_parts(c, parts);
        snprintf(text, sizeof text, "answer of %" PRIu64 " bytes is above the limit of %" PRIu64, held, c->max_message);
        iv_tell_failure(c, s, INVOKED_CODE_TOO_LARGE, INVOKED_DELIVERY_COMPLETED, text);
    } else {
        iv_tell(c, (iv_event){.kind = is_result ? IV_REPLIED : IV_FAILED, .stream = s->id, .owner = s->owner, .has_code = !is_result,
                              .code = code, .record = &record, .payload = f->payload, .len = f->len, .follows = s->answering,
                              .fds = f->fds, .nfds = f->h.nfds});
    }
    if (!is_result) iv_fail_channels(c, s, code, &record.f[IV_FAILURE_MESSAGE]);
    iv_settle(c, s);
    return IV_FINE;
}

static iv_error iv_on_continuation(iv_conn *c, const iv_frame_in *f) {
    iv_stream *s = iv_find(c, f->h.stream);
    if (s == NULL && iv_known(c, f->h.stream) < 0) return IV_ERROR(IV_UNKNOWN_STREAM, .a = f->h.stream);
    if (s == NULL || !s->open) return IV_FINE;
    if (!s->answering) return IV_ERROR(IV_UNEXPECTED, .kind = INVOKED_FRAME_DATA);
    if (f->len == 0 || f->len > s->remaining || ((f->h.flags & INVOKED_FLAG_MORE) != 0) != (f->len < s->remaining))
        return IV_ERROR(IV_MESSAGE_LENGTH);
    s->remaining -= f->len;
    if (s->remaining == 0) iv_end_call(c, s);
    if (!s->too_large)
        iv_tell(c, (iv_event){.kind = IV_CONTINUED, .stream = s->id, .owner = s->owner, .payload = f->payload, .len = f->len,
                              .follows = s->remaining > 0});
    iv_settle(c, s);
    return IV_FINE;
}

/* Finds the channel of a frame. With `*late` nothing is open that it could mean: it is dropped. */
static iv_error iv_channel_of(const iv_conn *c, const iv_frame_in *f, iv_stream **s, iv_chan **ch, bool *late) {
    *s = iv_find(c, f->h.stream);
    *ch = iv_find_chan(*s, f->h.arg);
    *late = *ch == NULL && (*s == NULL || (*s)->channels == NULL) && (*s == NULL || !(*s)->open || (*s)->answering);
    if (*ch != NULL || (*late && iv_known(c, f->h.stream) >= 0)) return IV_FINE;
    if (iv_known(c, f->h.stream) < 0) return IV_ERROR(IV_UNKNOWN_STREAM, .a = f->h.stream);
    return IV_ERROR(IV_UNKNOWN_CHANNEL, .a = f->h.stream, .b = f->h.arg);
}

static iv_error iv_on_end(iv_conn *c, const iv_frame_in *f) {
    iv_record end;
    iv_stream *s;
    iv_chan *ch;
    bool late;
    iv_error error = iv_read_record(IV_END, f, &end);
    if (error.what == IV_OK) error = iv_channel_of(c, f, &s, &ch, &late);
    if (error.what != IV_OK || late) return error;
    if (ch->half != IV_RECEIVING) return IV_ERROR(IV_UNEXPECTED, .kind = INVOKED_FRAME_DATA);
    const iv_field *code = &end.f[IV_END_CODE], *message = &end.f[IV_END_MESSAGE];
    if (!code->some && ch->remaining > 0) return IV_ERROR(IV_MESSAGE_LENGTH);
    bool told = ch->told;
    ch->half = IV_ENDED;
    c->channels--;
    if (!told)
        iv_tell(c, (iv_event){.kind = IV_CHANNEL_ENDED, .stream = s->id, .channel = f->h.arg, .owner = s->owner, .has_code = code->some,
                              .code = iv_known_code(code->number), .payload = message->span, .len = message->len,
                              .lagged = iv_lagged(&end.f[IV_END_EXTENSIONS])});
    iv_settle(c, s);
    return IV_FINE;
}

static iv_error iv_take_item(iv_conn *c, const iv_frame_in *f, iv_stream *s, iv_chan *ch, const iv_record *item, uint64_t total, uint64_t held) {
    uint64_t surcharge = item != NULL ? iv_surcharge(total) : 0;
    if (item != NULL ? ch->remaining > 0
                     : f->len == 0 || f->len > ch->remaining || ((f->h.flags & INVOKED_FLAG_MORE) != 0) != (f->len < ch->remaining))
        return IV_ERROR(IV_MESSAGE_LENGTH);
    ch->remaining = (item != NULL ? total : ch->remaining) - f->len;
    if (!iv_take_window(&ch->credit, f->len, surcharge)) return IV_ERROR(IV_OVERRUN);
    if (ch->unwanted || held > c->max_message) {
        if (item != NULL) iv_release_parts(c, &item->f[IV_ITEM_PARTS]);
        if (!ch->unwanted) {
            char text[120];
            iv_conn_stop(c, s->id, ch->index);
            ch->told = true;
            snprintf(text, sizeof text, "item of %" PRIu64 " bytes is above the limit of %" PRIu64, held, c->max_message);
            iv_tell(c, (iv_event){.kind = IV_CHANNEL_ENDED, .stream = s->id, .channel = ch->index, .owner = s->owner, .has_code = true,
                                  .code = INVOKED_CODE_TOO_LARGE, .payload = (const uint8_t *)text, .len = strlen(text)});
        }
        return IV_FINE;
    }
    /* An item that does not fit the window is credited as it comes, so that it can't block itself. */
    bool is_larger = ch->remaining > ch->credit.left;
    uint64_t said = is_larger ? iv_give_back(&ch->credit, f->len + surcharge) : 0;
    iv_tell(c, (iv_event){.kind = item != NULL ? IV_ITEM_CAME : IV_ITEM_CONTINUED, .stream = s->id, .channel = ch->index,
                          .owner = s->owner, .record = item, .payload = f->payload, .len = f->len, .follows = ch->remaining > 0,
                          .credit = is_larger ? 0 : f->len + surcharge,
                          .lagged = item != NULL ? iv_lagged(&item->f[IV_ITEM_EXTENSIONS]) : 0});
    if (said > 0) iv_say_credit(c, s->id, ch->index, said);
    return IV_FINE;
}

static iv_error iv_on_item(iv_conn *c, const iv_frame_in *f) {
    iv_record record, *item = NULL;
    iv_stream *s;
    iv_chan *ch;
    bool late;
    uint64_t total = 0, held = 0;
    if (f->h.flags & INVOKED_FLAG_END) return iv_on_end(c, f);
    if (!(f->h.flags & INVOKED_FLAG_CONT)) {
        iv_error error = iv_read_record(IV_ITEM, f, &record);
        if (error.what != IV_OK) return error;
        item = &record;
    }
    iv_error error = iv_channel_of(c, f, &s, &ch, &late);
    if (error.what == IV_OK && item != NULL && (!late || iv_has_lane(c, INVOKED_LANE_POOL)))
        error = iv_check_parts(c, &item->f[IV_ITEM_PARTS], f, true, &total, &held);
    if (error.what != IV_OK) return error;
    if (late) {
        if (item != NULL && iv_has_lane(c, INVOKED_LANE_POOL)) iv_release_parts(c, &item->f[IV_ITEM_PARTS]);
        return IV_FINE;
    }
    if (ch->half != IV_RECEIVING) return IV_ERROR(IV_UNEXPECTED, .kind = INVOKED_FRAME_DATA);
    return iv_take_item(c, f, s, ch, item, total, held);
}

static iv_error iv_on_stop(iv_conn *c, const iv_frame_in *f) {
    iv_stream *s;
    iv_chan *ch;
    bool late;
    iv_error error = iv_channel_of(c, f, &s, &ch, &late);
    if (error.what != IV_OK || late) return error;
    if (ch->half == IV_RECEIVING) return IV_ERROR(IV_UNEXPECTED, .kind = INVOKED_FRAME_STOP);
    /* Also where our own end is queued already: the items before it are not wanted any more. */
    if (iv_cut(c, s, ch))
        iv_tell(c, (iv_event){.kind = IV_CHANNEL_STOPPED, .stream = s->id, .channel = ch->index, .owner = s->owner});
    return IV_FINE;
}

static iv_error iv_on_credit(iv_conn *c, const iv_frame_in *f) {
    iv_record credit;
    iv_stream *s;
    iv_chan *ch;
    bool late;
    iv_error error = iv_read_record(IV_CREDIT, f, &credit);
    if (error.what != IV_OK) return error;
    uint64_t bytes = credit.f[0].number;
    if (f->h.stream == 0) {
        if (f->h.arg != 0) return IV_ERROR(IV_UNKNOWN_CHANNEL, .b = f->h.arg);
        return iv_add_credit(&c->send_credit, bytes) ? IV_FINE : IV_ERROR(IV_CREDIT_OVERFLOW);
    }
    error = iv_channel_of(c, f, &s, &ch, &late);
    if (error.what != IV_OK || late) return error;
    if (ch->half == IV_RECEIVING) return IV_ERROR(IV_UNEXPECTED, .kind = INVOKED_FRAME_CREDIT);
    if (ch->half == IV_ENDED) return IV_FINE;
    if (!iv_add_credit(&ch->credit, bytes)) return IV_ERROR(IV_CREDIT_OVERFLOW);
    iv_chan_changed(c, ch);
    if (ch->wanted && !ch->has_end && iv_room(&ch->credit) > ch->cost) {
        ch->wanted = false;
        iv_tell(c, (iv_event){.kind = IV_CHANNEL_CREDITED, .stream = s->id, .channel = ch->index, .owner = s->owner});
    }
    return IV_FINE;
}

static iv_error iv_on_segment(iv_conn *c, const iv_frame_in *f) {
    iv_record record;
    iv_error error = iv_read_record(IV_SEGMENT, f, &record);
    if (error.what != IV_OK) return error;
    if (!iv_has_lane(c, INVOKED_LANE_POOL)) return IV_ERROR(IV_FEATURE);
    iv_segment now = {.number = (uint32_t)record.f[IV_SEGMENT_NUMBER].number, .len = record.f[IV_SEGMENT_LEN].number,
                      .generation = (uint32_t)record.f[IV_SEGMENT_GENERATION].number};
    iv_segment *known = NULL;
    for (size_t i = 0; i < c->segment_count; i++) known = c->segments[i].number == now.number ? &c->segments[i] : known;
    iv_error bad = {.what = IV_BAD_SEGMENT, .a = now.number};
    if (now.len == 0 && f->h.nfds == 0) {
        if (known == NULL || known->generation != now.generation || known->len == 0) return bad;
        iv_map_drop(known->map);
        *known = now;
        iv_tell(c, (iv_event){.kind = IV_SEGMENT_GONE, .segment = known});
        return IV_FINE;
    }
    if ((known != NULL && known->generation >= now.generation) || (known == NULL && c->segment_count == INVOKED_MAX_SEGMENTS) ||
        now.len == 0 || now.len > INVOKED_SEGMENT_MAX || f->h.nfds != 1)
        return bad;
    c->refuse_segment = false;
    iv_tell(c, (iv_event){.kind = IV_SEGMENT_CAME, .segment = &now, .record = &record, .fds = f->fds, .nfds = 1});
    if (c->refuse_segment) return bad;
    known = known != NULL ? known : &c->segments[c->segment_count++];
    iv_map_drop(known->map);
    *known = now;
    return IV_FINE;
}

/* Frames that only providers and daemons are sent, and those of features that are not in force. */
static iv_error iv_on_unused(iv_conn *c, const iv_frame_in *f) {
    iv_record record;
    iv_error error = IV_FINE;
    switch (f->h.kind) {
    case INVOKED_FRAME_DATA: error = iv_read_record(f->h.flags & INVOKED_FLAG_END ? IV_END : IV_ITEM, f, &record); break;
    case INVOKED_FRAME_CREDIT: error = iv_read_record(IV_CREDIT, f, &record); break;
    case INVOKED_FRAME_GRANT: error = iv_read_record(IV_GRANT, f, &record); break;
    case INVOKED_FRAME_UNGRANT: error = iv_read_record(IV_UNGRANT, f, &record); break;
    case INVOKED_FRAME_LANES: error = iv_read_record(IV_LANES, f, &record); break;
    case INVOKED_FRAME_CALL:
        if (iv_has(c, INVOKED_FEATURE_PROVIDE)) error = iv_read_record(IV_CALL, f, &record);
        return error.what != IV_OK ? error : IV_ERROR(IV_FEATURE);
    case INVOKED_FRAME_RELEASE:
        error = iv_read_record(IV_RELEASE, f, &record);
        if (error.what != IV_OK || !iv_has(c, INVOKED_FEATURE_ATTACHED_FDS))
            return error.what != IV_OK ? error : IV_ERROR(IV_FEATURE);
        /* Nothing was lent and no file descriptor sent. */
        return record.f[0].number > 0 || record.f[1].number > 0 ? IV_ERROR(IV_NOT_LENT) : IV_FINE;
    case INVOKED_FRAME_CANCEL: {
        const iv_stream *s = iv_find(c, f->h.stream);
        if (s != NULL) return IV_ERROR(IV_UNEXPECTED, .kind = f->h.kind);
        break;
    }
    default: break;
    }
    if (error.what != IV_OK) return error;
    if (f->h.stream != 0) {
        int known = iv_known(c, f->h.stream);
        if (known < 0) return IV_ERROR(IV_UNKNOWN_STREAM, .a = f->h.stream);
        const iv_stream *s = iv_find(c, f->h.stream);
        if (s == NULL || !s->open) return IV_FINE;
    }
    return IV_ERROR(IV_FEATURE);
}

static void iv_on_ping(iv_conn *c, const iv_frame_in *f) {
    if (c->now_us / 1000000 != c->pong_second) { c->pong_second = c->now_us / 1000000; c->pongs = 0; }
    if (c->pongs++ < INVOKED_MAX_PINGS_PER_SECOND) iv_control(c, INVOKED_FRAME_PONG, 0, f->h.arg);
}

static iv_error iv_on_frame(iv_conn *c, const iv_frame_in *f) {
    iv_record record;
    if (f->h.kind >= 0x80) return IV_FINE;
    iv_error error = iv_check_shape(&f->h);
    if (error.what != IV_OK) return error;
    if (!c->welcomed || f->h.kind == INVOKED_FRAME_HELLO || f->h.kind == INVOKED_FRAME_WELCOME) return iv_on_handshake(c, f);
    c->to_confirm += f->h.nfds;
    bool has_channels = iv_has(c, INVOKED_FEATURE_CHANNELS);
    if (has_channels && f->len > 0) {
        /* What comes leaves the socket for where it belongs at once, so its credit goes back at once. */
        if (!iv_take_window(&c->window, f->len, 0)) return IV_ERROR(IV_OVERRUN);
        uint64_t said = iv_give_back(&c->window, f->len);
        if (said > 0) iv_say_credit(c, 0, 0, said);
    }
    switch (f->h.kind) {
    case INVOKED_FRAME_PING: iv_on_ping(c, f); return IV_FINE;
    case INVOKED_FRAME_PONG: iv_tell(c, (iv_event){.kind = IV_PONGED, .code = f->h.arg}); return IV_FINE;
    case INVOKED_FRAME_GOAWAY: return iv_on_goaway(c, f);
    case INVOKED_FRAME_RESULT: case INVOKED_FRAME_ERROR: return iv_on_terminal(c, f);
    case INVOKED_FRAME_SEGMENT: return iv_on_segment(c, f);
    case INVOKED_FRAME_LANES:
        if (!iv_has(c, INVOKED_FEATURE_ATTACHED_FDS)) return iv_on_unused(c, f);
        error = iv_read_record(IV_LANES, f, &record);
        if (error.what == IV_OK) iv_tell(c, (iv_event){.kind = IV_LANES_TOLD, .record = &record});
        return error;
    case INVOKED_FRAME_DATA:
        if ((f->h.flags & INVOKED_FLAG_CONT) && f->h.arg == 0) return iv_on_continuation(c, f);
        return has_channels ? iv_on_item(c, f) : iv_on_unused(c, f);
    case INVOKED_FRAME_STOP: return has_channels ? iv_on_stop(c, f) : iv_on_unused(c, f);
    case INVOKED_FRAME_CREDIT: return has_channels ? iv_on_credit(c, f) : iv_on_unused(c, f);
    default: return iv_on_unused(c, f);
    }
}

static void iv_read_refusal(iv_conn *c) {
    const uint8_t *p = c->in.p + c->in_at;
    size_t here = c->in.len - c->in_at;
    if (here < 8) return;
    uint64_t len = iv_load(p + 4, 4);
    if (len > INVOKED_REFUSAL_REASON_MAX)
        len = 0;
    else if (here < 8 + len)
        return;
    iv_tell(c, (iv_event){.kind = IV_REFUSED, .has_code = true, .code = iv_known_code(iv_load(p, 4)), .payload = p + 8, .len = (size_t)len});
    iv_stop(c);
    c->control.len = 0;
}

/* Reads the daemon's preface: whether frames may follow. */
static iv_error iv_read_preface(iv_conn *c, bool *goes_on) {
    static const uint8_t magic[] = INVOKED_MAGIC;
    const uint8_t *p = c->in.p + c->in_at;
    size_t here = c->in.len - c->in_at;
    *goes_on = c->preface_in && !c->refused;
    if (c->refused) iv_read_refusal(c);
    if (c->preface_in) return IV_FINE;
    if (c->fd_count > 0) return IV_ERROR(IV_FDS_UNCLAIMED, .a = c->fd_count);
    if (here > 0 && memcmp(p, magic, here < sizeof magic ? here : sizeof magic) != 0) return IV_ERROR(IV_BAD_MAGIC);
    if (here < INVOKED_PREFACE_LEN) return IV_FINE;
    c->in_at += INVOKED_PREFACE_LEN;
    c->preface_in = true;
    uint64_t lowest = iv_load(p + 8, 2), highest = iv_load(p + 10, 2), max_frame = iv_load(p + 12, 4);
    if (lowest == 0 && highest == 0) {
        c->refused = true;
        iv_read_refusal(c);
        return IV_FINE;
    }
    if (lowest != INVOKED_WIRE_VERSION || highest != INVOKED_WIRE_VERSION || max_frame < INVOKED_MAX_FRAME_FLOOR)
        return IV_ERROR(IV_BAD_PREFACE);
    c->remote_max_frame = (uint32_t)(max_frame < INVOKED_MAX_FRAME_CEILING ? max_frame : INVOKED_MAX_FRAME_CEILING);
    c->remote_features = iv_load(p + 16, 8);
    c->instance = iv_load(p + 24, 8);
    *goes_on = true;
    return IV_FINE;
}

/* Takes one whole frame: 1 if there was one, 0 if there is none, -1 with an error. */
static int iv_next_frame(iv_conn *c, iv_error *error) {
    const uint8_t *p = c->in.p + c->in_at;
    size_t here = c->in.len - c->in_at;
    unsigned max_fds = iv_has(c, INVOKED_FEATURE_ATTACHED_FDS) ? (unsigned)INVOKED_MAX_FDS_PER_FRAME : 0;
    iv_frame_in f = {.h = {0}};
    if (here >= INVOKED_HEADER_LEN) {
        *error = iv_header_read(p, c->max_frame, max_fds, &f.h);
        if (error->what != IV_OK) return -1;
        size_t whole = INVOKED_HEADER_LEN + (size_t)f.h.len;
        if (f.h.nfds > c->fd_count)
            *error = IV_ERROR(IV_FDS_MISSING, .a = f.h.nfds, .b = c->fd_count);
        else if (f.h.nfds < c->fd_count && here <= whole)
            *error = IV_ERROR(IV_FDS_UNCLAIMED, .a = c->fd_count);
        if (error->what != IV_OK || here < whole) return error->what != IV_OK ? -1 : 0;
        c->in_at += whole;
        f.metadata = p + INVOKED_HEADER_LEN;
        f.payload = f.metadata + f.h.meta_len;
        f.len = f.h.len - f.h.meta_len;
        int fds[INVOKED_MAX_FDS_PER_FRAME];
        memcpy(fds, c->fds, f.h.nfds * sizeof *fds);
        c->fd_count -= f.h.nfds;
        memmove(c->fds, c->fds + f.h.nfds, c->fd_count * sizeof *fds);
        f.fds = fds;
        *error = iv_on_frame(c, &f);
        iv_close_fds(fds, f.h.nfds);
        return error->what != IV_OK ? -1 : 1;
    }
    if (c->fd_count > max_fds || (here == 0 && c->fd_count > 0)) *error = IV_ERROR(IV_FDS_UNCLAIMED, .a = c->fd_count);
    return error->what != IV_OK ? -1 : 0;
}

/* Acts on what `in` and `fds` have. After an error the connection is closed, with a GOAWAY to be sent if that helps. */
static iv_error iv_conn_process(iv_conn *c) {
    iv_error error = IV_FINE;
    bool goes_on = false;
    if (c->state == IV_CLOSED) return error;
    error = iv_read_preface(c, &goes_on);
    while (error.what == IV_OK && goes_on && c->state != IV_CLOSED && iv_next_frame(c, &error) > 0) ;
    if (c->control.failed) error = IV_ERROR(IV_NO_MEMORY);
    if (error.what != IV_OK) return iv_conn_refuse(c, error);
    if (c->in_at > 0 && c->state != IV_CLOSED) {
        c->in.len -= c->in_at;
        memmove(c->in.p, c->in.p + c->in_at, c->in.len);
        c->in_at = 0;
    }
    return error;
}

/* The end of the socket. */
static iv_error iv_conn_eof(iv_conn *c) {
    bool whole = c->state == IV_CLOSED || (c->in.len == c->in_at && !c->refused);
    iv_stop(c);
    c->control.len = 0;
    return whole ? IV_FINE : IV_ERROR(IV_CUT_OFF);
}

/* ================================================================ errors */
const char *invoked_code_name(uint32_t code) {
    switch (code) {
#define IV_CASE(value, name, may) case value: return name;
        INVOKED_CODES(IV_CASE)
#undef IV_CASE
    default: return "unknown";
    }
}

int invoked_code_errno(uint32_t code) {
    switch (code) {
    case INVOKED_CODE_APPLICATION: return EREMOTEIO;
    case INVOKED_CODE_CANCELLED: return ECANCELED;
    case INVOKED_CODE_INVALID_ARGUMENT: return EINVAL;
    case INVOKED_CODE_DEADLINE_EXCEEDED: return ETIMEDOUT;
    case INVOKED_CODE_NOT_FOUND: return ENOENT;
    case INVOKED_CODE_ALREADY_EXISTS: return EEXIST;
    case INVOKED_CODE_PERMISSION_DENIED: case INVOKED_CODE_REVOKED: return EACCES;
    case INVOKED_CODE_RESOURCE_EXHAUSTED: return EBUSY;
    case INVOKED_CODE_OUT_OF_RANGE: return ERANGE;
    case INVOKED_CODE_UNIMPLEMENTED: return ENOSYS;
    case INVOKED_CODE_UNAVAILABLE: return ECONNRESET;
    case INVOKED_CODE_UNAUTHENTICATED: return EPERM;
    case INVOKED_CODE_TOO_LARGE: return EMSGSIZE;
    case INVOKED_CODE_PROTOCOL: case INVOKED_CODE_VERSION_MISMATCH: return EPROTO;
    default: return EIO;
    }
}

static void iv_set_error(invoked_error *error, uint32_t code, int delivery, const char *format, ...) {
    char text[sizeof error->message];
    va_list list;
    if (error == NULL) return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    memset(error, 0, sizeof *error);
    error->code = code;
    error->delivery = delivery;
    error->retry_after_ms = INVOKED_NONE;
#define IV_CASE(value, name, may) error->retryable |= (value) == code && (may);
    INVOKED_CODES(IV_CASE)
#undef IV_CASE
    iv_copy_text(error->message, sizeof error->message, text, strlen(text));
}

/* ================================================================ addresses */
static bool iv_owns_directory(const char *path) {
    struct stat found;
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid();
}

/* Writes the path of the socket: 0, or -EINVAL of what can't be one. `*named` says whether somebody named it. */
static int iv_choose_address(const char *address, char path[108], bool *named) {
    char text[512];
    if (address == NULL) { address = getenv("INVOKED_ADDRESS"); address = address != NULL && *address != 0 ? address : NULL; }
    *named = address != NULL;
    if (address == NULL) {
        const char *runtime = getenv("XDG_RUNTIME_DIR"), *temporary = getenv("TMPDIR");
        unsigned uid = (unsigned)geteuid();
        char run_user[40];
        snprintf(run_user, sizeof run_user, "/run/user/%u", uid);
        if (uid == 0)
            snprintf(text, sizeof text, "/run/invoked/invoked.sock");
        else if (runtime != NULL && *runtime == '/' && iv_owns_directory(runtime))
            snprintf(text, sizeof text, "%s/invoked/invoked.sock", runtime);
        else if (iv_owns_directory(run_user))
            snprintf(text, sizeof text, "%s/invoked/invoked.sock", run_user);
        else
            snprintf(text, sizeof text, "%s/invoked-%u/invoked.sock", temporary != NULL && *temporary == '/' ? temporary : "/tmp", uid);
        address = text;
    }
    if (strncmp(address, "unix:", 5) == 0) address += 5;
    size_t len = strlen(address);
    if (*address != '/' || len > 107 || address[len - 1] == '/') return -EINVAL;
    memcpy(path, address, len + 1);
    return 0;
}

/* Whether `uid` owns the directory of a socket, and only that uid or root can have made and filled it. */
static bool iv_owns_its_place(const char *path, uid_t uid) {
    char above[108];
    struct stat found;
    snprintf(above, sizeof above, "%s", path);
    for (bool first = true;; first = false) {
        char *slash = strrchr(above, '/');
        slash[slash == above] = 0;
        if (lstat(above, &found) != 0 || !S_ISDIR(found.st_mode) || (found.st_mode & 022) != 0 || (found.st_uid != uid && (first || found.st_uid != 0)))
            return false;
        if (slash == above) return true;
    }
}

/* ================================================================ the client */
#define IV_TICK_MS 200 /* how long one read waits at most, so that deadlines are looked at */

typedef struct iv_assembly {
    iv_buf bytes;
    uint64_t total;
    size_t part_count;
    iv_part parts[INVOKED_MAX_PARTS];
    uint64_t credit, lagged;
    invoked_header *headers; /* one block with their texts */
    size_t header_count;
    bool active;
} iv_assembly;

/* A message with what it holds. */
typedef struct iv_message {
    invoked_message out; /* first: the program's pointer is to it */
    struct iv_message *next;
    invoked_client *client;
    uint64_t generation, credit;
    void *buffer;
    invoked_header *headers;
    invoked_bytes attachments[INVOKED_MAX_PARTS];
    size_t lease_count;
    iv_lease leases[INVOKED_MAX_PARTS];
    iv_map *maps[INVOKED_MAX_PARTS];
} iv_message;

typedef struct iv_inbox {
    uint32_t index;
    bool down, ended, failed;
    iv_assembly assembly;
    iv_message *first, **last;
    invoked_error error;
} iv_inbox;

struct invoked_call {
    invoked_client *client;
    invoked_call *next;
    uint64_t stream, deadline_us, generation;
    bool done, attached;
    int result;
    invoked_error error;
    iv_assembly assembly;
    iv_message *reply;
    iv_inbox *inboxes;
    size_t inbox_count;
};

struct invoked_client {
    size_t refs;
    int fd;
    iv_conn conn;
    iv_buf out;
    size_t out_at;
    invoked_call *calls;
    char path[108];
    bool named;
    enum invoked_server trust;
    uint32_t trusted_uid, server_uid, timeout_ms;
    uint64_t features;
    iv_buf hello;
    uint64_t generation, peer, frame_since_us;
    bool welcomed, refused;
    invoked_error refusal;
    char *warnings[16];
    char problem[512];
};

static void iv_client_drop(invoked_client *client) {
    if (--client->refs > 0) return;
    iv_conn_free(&client->conn);
    iv_buf_free(&client->out);
    iv_buf_free(&client->hello);
    for (size_t i = 0; i < 16; i++) free(client->warnings[i]);
    free(client);
}

/* ---------------------------------------------------------------- messages */
static void iv_assembly_free(iv_assembly *a) {
    iv_buf_free(&a->bytes);
    free(a->headers);
    memset(a, 0, sizeof *a);
}

void invoked_message_free(invoked_message *message) {
    iv_message *m = (iv_message *)(void *)message;
    if (m == NULL) return;
    for (size_t i = 0; i < m->lease_count; i++) {
        if (m->generation == m->client->generation) iv_conn_release(&m->client->conn, m->leases[i]);
        iv_map_drop(m->maps[i]);
    }
    free(m->buffer);
    free(m->headers);
    iv_client_drop(m->client);
    free(m);
}

/* Copies headers into one block: the pairs, then their texts. */
static bool iv_copy_headers(const iv_field *headers, iv_assembly *a) {
    size_t size = headers->number * (sizeof *a->headers + 2) + headers->len;
    iv_reader r = iv_list(headers);
    iv_element e;
    if (headers->number == 0) return true;
    if ((a->headers = malloc(size)) == NULL) return false;
    char *text = (char *)(a->headers + headers->number);
    while (iv_each(&r, IV_HEADERS, &e)) {
        invoked_header *header = &a->headers[a->header_count++];
        const iv_field *fields[] = {&e.one, &e.two};
        for (int i = 0; i < 2; i++) {
            *(i == 0 ? &header->key : &header->value) = text;
            memcpy(text, fields[i]->span, fields[i]->len);
            text += fields[i]->len;
            *text++ = 0;
        }
    }
    return true;
}

/* Begins a message; its inline bytes follow by iv_assembly_add. */
static bool iv_assembly_begin(iv_assembly *a, const iv_field *parts, const iv_field *headers) {
    iv_reader r = iv_list(parts);
    iv_element e;
    iv_assembly_free(a);
    a->active = true;
    while (iv_each(&r, IV_PARTS, &e)) {
        a->parts[a->part_count++] = e.part;
        a->total += e.part.place == INVOKED_LANE_INLINE ? e.part.len : 0;
    }
    return headers == NULL || iv_copy_headers(headers, a);
}

static bool iv_assembly_add(iv_assembly *a, const uint8_t *bytes, size_t len) {
    /* As bytes arrive and never more than were announced. */
    if (a->bytes.len + len > a->bytes.cap) {
        size_t needed = a->bytes.len + len, cap = 2 * a->bytes.cap;
        cap = cap > needed ? cap : needed;
        cap = cap < a->total ? cap : (size_t)a->total;
        if (cap > needed && !iv_reserve(&a->bytes, cap - a->bytes.len)) return false;
    }
    iv_put(&a->bytes, bytes, len);
    return !a->bytes.failed;
}

/* Makes a message of what came whole; the assembly is empty after. NULL without memory. */
static iv_message *iv_assembly_finish(iv_assembly *a, invoked_client *client) {
    iv_message *m = calloc(1, sizeof *m);
    size_t at = 0;
    if (m == NULL) { iv_assembly_free(a); return NULL; }
    m->client = client;
    client->refs++;
    m->generation = client->generation;
    m->buffer = a->bytes.p;
    for (size_t i = 0; i < a->part_count; i++) {
        const iv_part *part = &a->parts[i];
        invoked_bytes bytes = {"", (size_t)part->len};
        if (part->place == INVOKED_LANE_INLINE) {
            bytes.ptr = part->len > 0 ? a->bytes.p + at : (const void *)"";
            at += (size_t)part->len;
        } else {
            for (size_t j = 0; j < client->conn.segment_count; j++) {
                iv_segment *s = &client->conn.segments[j];
                if (s->number != part->segment || s->generation != part->generation || s->map == NULL) continue;
                bytes.ptr = (const uint8_t *)s->map->p + part->offset;
                m->maps[m->lease_count] = s->map;
                s->map->refs++;
                m->leases[m->lease_count++] = (iv_lease){part->segment, part->generation, part->offset};
                m->out.is_shared |= i == 0;
            }
        }
        *(i == 0 ? &m->out.body : &m->attachments[i - 1]) = bytes;
    }
    m->out.codec = a->parts[0].codec;
    m->out.attachments = m->attachments;
    m->out.attachment_count = a->part_count - 1;
    m->out.headers = m->headers = a->headers;
    m->out.header_count = a->header_count;
    m->out.lagged = a->lagged;
    m->credit = a->credit;
    memset(a, 0, sizeof *a);
    return m;
}

/* ---------------------------------------------------------------- what the connection tells */
static void iv_finish(invoked_call *call, int result) {
    call->done = true;
    call->result = result;
}

static void iv_fail_call(invoked_call *call, uint32_t code, int delivery, const char *message) {
    if (call->done) return;
    iv_set_error(&call->error, code, delivery, "%s", message);
    iv_assembly_free(&call->assembly);
    iv_finish(call, -invoked_code_errno(code));
}

static void iv_fail_inbox(iv_inbox *inbox, uint32_t code, const char *message) {
    if (inbox->ended) return;
    inbox->ended = inbox->failed = true;
    iv_assembly_free(&inbox->assembly);
    iv_set_error(&inbox->error, code, INVOKED_DELIVERY_DELIVERED, "%s", message);
}

static iv_inbox *iv_inbox_of(const invoked_call *call, uint32_t index) {
    for (size_t i = 0; i < call->inbox_count; i++)
        if (call->inboxes[i].index == index) return &call->inboxes[i];
    return NULL;
}

static void iv_whole_answer(invoked_call *call) {
    if (call->error.message[0] != 0 || call->result != 0) { /* an error of the framework: its message is empty */
        iv_assembly_free(&call->assembly);
        iv_finish(call, call->result);
        return;
    }
    bool is_error = call->error.retry_after_ms != 0; /* set below for errors only */
    call->reply = iv_assembly_finish(&call->assembly, call->client);
    if (call->reply == NULL)
        iv_fail_call(call, INVOKED_CODE_RESOURCE_EXHAUSTED, INVOKED_DELIVERY_COMPLETED, "out of memory");
    else
        iv_finish(call, is_error ? -EREMOTEIO : 0);
}

static void iv_on_answer(invoked_call *call, const iv_event *e) {
    bool is_result = e->kind == IV_REPLIED;
    const iv_field *f = e->record->f;
    memset(&call->error, 0, sizeof call->error);
    call->result = 0;
    if (!is_result) {
        char text[sizeof call->error.message];
        iv_copy_text(text, sizeof text, f[IV_FAILURE_MESSAGE].span, f[IV_FAILURE_MESSAGE].len);
        iv_set_error(&call->error, e->code, (int)f[IV_FAILURE_DELIVERY].number, "%s", text);
        call->error.retryable = f[IV_FAILURE_RETRYABLE].number != 0;
        if (f[IV_FAILURE_AFTER].some) call->error.retry_after_ms = f[IV_FAILURE_AFTER].number;
        if (f[IV_FAILURE_DECISION].some)
            iv_copy_text(call->error.decision, sizeof call->error.decision, f[IV_FAILURE_DECISION].span, f[IV_FAILURE_DECISION].len);
        if (e->code != INVOKED_CODE_APPLICATION)
            call->result = -invoked_code_errno(e->code);
        else
            call->error.message[0] = 0;
        if (call->error.retry_after_ms == 0) call->error.retry_after_ms = 1;
    }
    const iv_field *parts = &f[is_result ? IV_REPLY_PARTS : IV_FAILURE_PARTS];
    if (!iv_assembly_begin(&call->assembly, parts, is_result ? &f[IV_REPLY_HEADERS] : NULL) ||
        !iv_assembly_add(&call->assembly, e->payload, e->len)) {
        iv_release_parts(&call->client->conn, parts);
        iv_fail_call(call, INVOKED_CODE_RESOURCE_EXHAUSTED, INVOKED_DELIVERY_COMPLETED, "out of memory");
    } else if (!e->follows) {
        iv_whole_answer(call);
    }
}

static void iv_on_item_event(invoked_client *client, invoked_call *call, const iv_event *e) {
    iv_inbox *inbox = iv_inbox_of(call, e->channel);
    bool begins = e->kind == IV_ITEM_CAME;
    if (inbox == NULL || inbox->ended || (!begins && !inbox->assembly.active)) {
        if (begins) iv_release_parts(&client->conn, &e->record->f[IV_ITEM_PARTS]);
        return;
    }
    bool good = (!begins || iv_assembly_begin(&inbox->assembly, &e->record->f[IV_ITEM_PARTS], NULL)) &&
                iv_assembly_add(&inbox->assembly, e->payload, e->len);
    inbox->assembly.lagged += begins ? e->lagged : 0;
    inbox->assembly.credit += e->credit;
    iv_message *item = NULL;
    if (good && e->follows) return;
    if (good) item = iv_assembly_finish(&inbox->assembly, client);
    if (item == NULL) { iv_fail_inbox(inbox, INVOKED_CODE_RESOURCE_EXHAUSTED, "out of memory"); return; }
    *inbox->last = item;
    inbox->last = &item->next;
}

/* Verifies memory that the daemon introduces before it is mapped: what could become shorter would be a signal. */
static void iv_map_segment(invoked_client *client, iv_segment *segment, int fd) {
    struct stat found;
    struct statfs system;
    int seals = fcntl(fd, F_GET_SEALS), fixed = F_SEAL_SHRINK | F_SEAL_GROW;
    bool good = seals >= 0 && (seals & fixed) == fixed && (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) != 0 && fstat(fd, &found) == 0 &&
                S_ISREG(found.st_mode) && (uint64_t)found.st_size == segment->len && fstatfs(fd, &system) == 0 &&
                system.f_type == 0x01021994; /* tmpfs: ordinary pages */
    iv_map *map = good ? malloc(sizeof *map) : NULL;
    void *p = map != NULL ? mmap(NULL, (size_t)segment->len, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (p == MAP_FAILED) {
        free(map);
        client->conn.refuse_segment = true;
        return;
    }
    *map = (iv_map){.refs = 1, .len = (size_t)segment->len, .p = p};
    segment->map = map;
}

static void iv_on_welcome(invoked_client *client, const iv_record *welcome) {
    iv_reader r = iv_list(&welcome->f[IV_WELCOME_WARNINGS]);
    iv_element e;
    client->welcomed = true;
    client->peer = welcome->f[IV_WELCOME_PEER].number;
    for (size_t i = 0; iv_each(&r, IV_TEXTS, &e) && i < 16; i++)
        if ((client->warnings[i] = malloc(e.one.len + 1)) != NULL)
            iv_copy_text(client->warnings[i], e.one.len + 1, e.one.span, e.one.len);
}

static void iv_client_told(void *to, iv_event *e) {
    invoked_client *client = to;
    invoked_call *call = e->owner;
    char text[sizeof client->problem];
    const iv_field *why = e->kind == IV_WENT_AWAY ? &e->record->f[IV_GOAWAY_MESSAGE] : NULL;
    iv_copy_text(text, sizeof text, why != NULL ? why->span : e->payload, why != NULL ? why->len : e->len);
    switch (e->kind) {
    case IV_WELCOMED: iv_on_welcome(client, e->record); break;
    case IV_REFUSED: case IV_WENT_AWAY:
        client->refused = true;
        iv_set_error(&client->refusal, e->code, INVOKED_DELIVERY_NOT_DELIVERED, "the daemon says %s: %s", invoked_code_name(e->code), text);
        break;
    case IV_REPLIED: case IV_FAILED:
        if (call != NULL && !call->done)
            iv_on_answer(call, e);
        else
            iv_release_parts(&client->conn, &e->record->f[e->kind == IV_REPLIED ? IV_REPLY_PARTS : IV_FAILURE_PARTS]);
        break;
    case IV_CONTINUED:
        if (call == NULL || call->done) break;
        if (!iv_assembly_add(&call->assembly, e->payload, e->len))
            iv_fail_call(call, INVOKED_CODE_RESOURCE_EXHAUSTED, INVOKED_DELIVERY_COMPLETED, "out of memory");
        else if (!e->follows)
            iv_whole_answer(call);
        break;
    case IV_ITEM_CAME: case IV_ITEM_CONTINUED:
        if (call != NULL)
            iv_on_item_event(client, call, e);
        else if (e->kind == IV_ITEM_CAME)
            iv_release_parts(&client->conn, &e->record->f[IV_ITEM_PARTS]);
        break;
    case IV_CHANNEL_ENDED: {
        iv_inbox *inbox = call != NULL ? iv_inbox_of(call, e->channel) : NULL;
        if (inbox != NULL && e->has_code)
            iv_fail_inbox(inbox, e->code, text);
        else if (inbox != NULL)
            inbox->ended = true;
        break;
    }
    case IV_SEGMENT_CAME: iv_map_segment(client, e->segment, e->fds[0]); break;
    default: break;
    }
}

/* ---------------------------------------------------------------- the socket */
/* The connection is over: every call ends, and the text says why. */
static int iv_lose(invoked_client *client, const char *format, ...) {
    va_list list;
    if (client->fd < 0) return -ECONNRESET;
    va_start(list, format);
    vsnprintf(client->problem, sizeof client->problem, format, list);
    va_end(list);
    if (client->refused) snprintf(client->problem, sizeof client->problem, "%s", client->refusal.message);
    for (invoked_call *call = client->calls; call != NULL; call = call->next) {
        const iv_stream *s = iv_find(&client->conn, call->stream);
        bool was_sent = s == NULL || s->begun;
        iv_fail_call(call, INVOKED_CODE_UNAVAILABLE, was_sent ? INVOKED_DELIVERY_DELIVERED : INVOKED_DELIVERY_NOT_DELIVERED, client->problem);
        for (size_t i = 0; i < call->inbox_count; i++)
            iv_fail_inbox(&call->inboxes[i], INVOKED_CODE_UNAVAILABLE, client->problem);
    }
    iv_stop(&client->conn);
    close(client->fd);
    client->fd = -1;
    return -ECONNRESET;
}

/* Writes what can be written without waiting. */
static int iv_flush(invoked_client *client) {
    while (client->fd >= 0) {
        if (client->out_at == client->out.len) {
            client->out_at = client->out.len = 0;
            if (!iv_conn_fill(&client->conn, &client->out)) return 0;
            if (client->out.failed) return iv_lose(client, "out of memory");
        }
        ssize_t sent = send(client->fd, client->out.p + client->out_at, client->out.len - client->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0)
            client->out_at += (size_t)sent;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        else if (errno != EINTR)
            return iv_lose(client, "the connection is lost: %s", strerror(errno));
    }
    return -ECONNRESET;
}

static bool iv_take_fds(iv_conn *c, struct msghdr *message) {
    bool fits = (message->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            if (c->fd_count < sizeof c->fds / sizeof *c->fds) {
                c->fds[c->fd_count++] = fd;
            } else {
                close(fd);
                fits = false;
            }
        }
    }
    return fits;
}

/* Reads once: 1 if something came, 0 if nothing is there, or a negative errno. */
static int iv_receive(invoked_client *client, int flags) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(IV_MAX_FDS * sizeof(int))];
    } control;
    iv_conn *c = &client->conn;
    char text[200];
    if (client->fd < 0) return -ECONNRESET;
    if (!iv_reserve(&c->in, 64 * 1024)) return iv_lose(client, "out of memory");
    struct iovec room = {c->in.p + c->in.len, c->in.cap - c->in.len};
    struct msghdr message = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(client->fd, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : iv_lose(client, "the connection is lost: %s", strerror(errno));
    c->now_us = iv_now_us();
    if (got == 0) {
        iv_error error = iv_conn_eof(c);
        return iv_lose(client, error.what == IV_OK ? "the daemon closed the connection" : "the daemon closed the connection inside a frame");
    }
    bool fits = iv_take_fds(c, &message);
    c->in.len += (size_t)got;
    iv_error error = fits ? iv_conn_process(c) : iv_conn_refuse(c, IV_ERROR(IV_FDS_MISSING));
    client->frame_since_us = c->in.len > 0 ? client->frame_since_us == 0 ? c->now_us : client->frame_since_us : 0;
    if (error.what == IV_OK && c->state != IV_CLOSED) return 1;
    iv_error_text(&error, text, sizeof text);
    iv_buf last = {0};
    if (iv_conn_fill(c, &last) && client->out_at == client->out.len)
        (void)!send(client->fd, last.p, last.len, MSG_DONTWAIT | MSG_NOSIGNAL); /* the reason, if there is room */
    iv_buf_free(&last);
    return iv_lose(client, "the daemon broke the protocol: %s", text);
}

static void iv_check_deadlines(invoked_client *client) {
    uint64_t now = iv_now_us();
    for (invoked_call *call = client->calls; call != NULL; call = call->next)
        if (!call->done && call->deadline_us <= now) {
            enum iv_withdrawal withdrawal = iv_conn_cancel(&client->conn, call->stream);
            iv_fail_call(call, INVOKED_CODE_DEADLINE_EXCEEDED, withdrawal == IV_NEVER_SENT ? INVOKED_DELIVERY_NOT_DELIVERED : INVOKED_DELIVERY_DELIVERED,
                         "no answer in time");
        }
    if (client->frame_since_us > 0 && now - client->frame_since_us > INVOKED_FRAME_TIMEOUT_MS * 1000)
        iv_lose(client, "the daemon began a frame and did not go on");
}

int invoked_fd(const invoked_client *client) { return client->fd; }

short invoked_events(const invoked_client *client) {
    bool writes = client->out_at < client->out.len || iv_conn_has_output(&client->conn);
    /* Whoever lets its answers pile up is not read. */
    bool reads = client->conn.control.len <= INVOKED_UNSENT_BYTES_PAUSE;
    return (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
}

int invoked_timeout(const invoked_client *client) {
    uint64_t now = iv_now_us(), first = UINT64_MAX;
    for (const invoked_call *call = client->calls; call != NULL; call = call->next)
        if (!call->done && call->deadline_us < first) first = call->deadline_us;
    if (client->frame_since_us > 0 && client->frame_since_us + INVOKED_FRAME_TIMEOUT_MS * 1000 < first)
        first = client->frame_since_us + INVOKED_FRAME_TIMEOUT_MS * 1000;
    if (first == UINT64_MAX) return -1;
    uint64_t left = first > now ? (first - now + 999) / 1000 : 0;
    return left < 1000000000 ? (int)left : 1000000000;
}

int invoked_drive(invoked_client *client) {
    int result = iv_flush(client);
    for (int reads = 0; result == 0 && reads < 16 && client->conn.control.len <= INVOKED_UNSENT_BYTES_PAUSE; reads++) {
        int got = iv_receive(client, MSG_DONTWAIT);
        if (got <= 0) { result = got; break; }
    }
    iv_check_deadlines(client);
    return result == 0 ? iv_flush(client) : result;
}

/* Waits for something to happen, until `until_us` at most, and does it. */
static int iv_wait_once(invoked_client *client, uint64_t until_us) {
    int result = iv_flush(client), timeout = invoked_timeout(client);
    uint64_t now = iv_now_us();
    if (result != 0) return result;
    if (until_us != UINT64_MAX) {
        uint64_t left = until_us > now ? (until_us - now + 999) / 1000 : 0;
        timeout = timeout < 0 || left < (uint64_t)timeout ? (int)(left < 1000000000 ? left : 1000000000) : timeout;
    }
    if ((timeout < 0 || timeout > IV_TICK_MS) && invoked_events(client) == POLLIN) {
        /* The socket itself waits, a tick at most: one system call for an answer. */
        result = iv_receive(client, 0);
        iv_check_deadlines(client);
        return result < 0 ? result : 0;
    }
    struct pollfd poll_fd = {.fd = client->fd, .events = invoked_events(client)};
    poll(&poll_fd, 1, timeout);
    return invoked_drive(client);
}

/* ---------------------------------------------------------------- connecting */
static int iv_dial(invoked_client *client, uint64_t until_us, invoked_error *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred server;
    socklen_t len = sizeof server;
    struct timeval tick = {.tv_usec = IV_TICK_MS * 1000};
    memcpy(address.sun_path, client->path, strlen(client->path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), result;
    if (fd < 0) {
        result = -errno;
        iv_set_error(error, INVOKED_CODE_UNAVAILABLE, INVOKED_DELIVERY_NOT_DELIVERED, "no socket: %s", strerror(-result));
        return result;
    }
    while ((result = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 ? 0 : -errno) != 0) {
        bool busy = result == -EAGAIN || result == -EINTR;
        if (!busy || iv_now_us() >= until_us) break;
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
    }
    const char *why = result == -ENOENT ? "there is no socket; is the daemon running?" : result == -ECONNREFUSED ? "nothing listens there"
                      : result == -EAGAIN ? "the daemon is busy" : result != 0 ? strerror(-result) : NULL;
    if (result == 0 && (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &server, &len) != 0 || fcntl(fd, F_SETFL, 0) != 0 ||
                        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick) != 0)) {
        result = -errno;
        why = "the socket can't be set up";
    }
    if (result == 0) {
        client->server_uid = server.uid;
        bool trusted = server.uid == 0 || server.uid == geteuid() || client->trust == INVOKED_SERVER_ANYONE ||
                       (client->trust == INVOKED_SERVER_UID && server.uid == client->trusted_uid) ||
                       (client->trust == INVOKED_SERVER_TRUSTED && !client->named && iv_owns_its_place(client->path, server.uid));
        result = trusted ? 0 : -EPERM;
        why = "its server runs as a uid that is not trusted here";
    }
    if (result != 0) {
        iv_set_error(error, result == -EPERM ? INVOKED_CODE_UNAUTHENTICATED : INVOKED_CODE_UNAVAILABLE, INVOKED_DELIVERY_NOT_DELIVERED,
                     "can't connect to %s: %s", client->path, why);
        close(fd);
        return result;
    }
    client->fd = fd;
    return 0;
}

int invoked_reconnect(invoked_client *client, invoked_error *error) {
    uint64_t until = iv_now_us() + (uint64_t)client->timeout_ms * 1000;
    iv_lose(client, "connected anew");
    iv_conn_free(&client->conn);
    memset(&client->conn, 0, sizeof client->conn);
    client->out_at = client->out.len = 0;
    client->welcomed = client->refused = false;
    client->frame_since_us = 0;
    client->problem[0] = 0;
    for (size_t i = 0; i < 16; i++) { free(client->warnings[i]); client->warnings[i] = NULL; }
    client->generation++;
    client->conn.tell = iv_client_told;
    client->conn.to = client;
    int result = iv_conn_begin(&client->conn, client->features, (uint32_t)INVOKED_MAX_FRAME, 0, &client->hello);
    if (result != 0) {
        iv_set_error(error, INVOKED_CODE_INVALID_ARGUMENT, INVOKED_DELIVERY_NOT_DELIVERED, "the names to say hello with are too long or not UTF-8");
        return result;
    }
    if ((result = iv_dial(client, until, error)) != 0) { iv_conn_free(&client->conn); return result; }
    while (client->fd >= 0 && !client->welcomed) {
        if (iv_now_us() >= until)
            iv_lose(client, "no welcome in time");
        else
            iv_wait_once(client, until);
    }
    if (client->welcomed && client->fd >= 0) return 0;
    if (client->refused && error != NULL)
        *error = client->refusal;
    else
        iv_set_error(error, INVOKED_CODE_UNAVAILABLE, INVOKED_DELIVERY_NOT_DELIVERED, "%s", client->problem);
    return client->refused ? -invoked_code_errno(client->refusal.code) : -ECONNRESET;
}

static void iv_say_hello(iv_buf *hello, const invoked_options *o) {
    iv_put_text(hello, o->name != NULL ? o->name : "");
    iv_put_text(hello, o->version != NULL ? o->version : "");
    iv_put_text(hello, "invoked.c " INVOKED_VERSION);
    iv_put_byte(hello, 0);
    iv_put_uint(hello, !o->no_shared_memory);
    if (!o->no_shared_memory) iv_put_byte(hello, INVOKED_LANE_POOL);
    iv_put_byte(hello, o->narrowed);
    if (o->narrowed) {
        iv_put_uint(hello, o->narrow_count);
        for (size_t i = 0; i < o->narrow_count; i++) iv_put_text(hello, o->narrow[i]);
    }
    iv_put_uint(hello, 0);
}

int invoked_connect(const invoked_options *options, invoked_client **out, invoked_error *error) {
    static const invoked_options plain;
    const invoked_options *o = options != NULL ? options : &plain;
    *out = NULL;
    invoked_client *client = calloc(1, sizeof *client);
    if (client == NULL) return -ENOMEM;
    client->refs = 1;
    client->fd = -1;
    client->trust = o->server;
    client->trusted_uid = o->server_uid;
    client->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : (uint32_t)INVOKED_HANDSHAKE_TIMEOUT_MS;
    client->features = INVOKED_FEATURE_CHANNELS | (o->no_shared_memory ? 0 : INVOKED_FEATURE_ATTACHED_FDS | INVOKED_FEATURE_POOL);
    iv_say_hello(&client->hello, o);
    int result = iv_choose_address(o->address, client->path, &client->named);
    if (result != 0)
        iv_set_error(error, INVOKED_CODE_INVALID_ARGUMENT, INVOKED_DELIVERY_NOT_DELIVERED,
                     "the address is no absolute path of at most 107 bytes, with or without `unix:`");
    else
        result = invoked_reconnect(client, error);
    if (result != 0) { iv_client_drop(client); return result; }
    *out = client;
    return 0;
}

void invoked_close(invoked_client *client) {
    if (client == NULL) return;
    iv_flush(client);
    iv_lose(client, "the client was closed");
    iv_client_drop(client);
}

bool invoked_is_connected(const invoked_client *client) { return client->fd >= 0 && !client->refused; }
uint64_t invoked_generation(const invoked_client *client) { return client->generation; }
uint64_t invoked_instance(const invoked_client *client) { return client->conn.instance; }
uint64_t invoked_peer(const invoked_client *client) { return client->peer; }
uint32_t invoked_server_uid(const invoked_client *client) { return client->server_uid; }
const char *invoked_warning(const invoked_client *client, size_t at) { return at < 16 ? client->warnings[at] : NULL; }
const char *invoked_problem(const invoked_client *client) { return client->problem; }

/* ---------------------------------------------------------------- calls */
static void iv_call_free_memory(invoked_call *call) {
    iv_assembly_free(&call->assembly);
    invoked_message_free(call->reply != NULL ? &call->reply->out : NULL);
    for (size_t i = 0; i < call->inbox_count; i++) {
        iv_assembly_free(&call->inboxes[i].assembly);
        while (call->inboxes[i].first != NULL) {
            iv_message *item = call->inboxes[i].first;
            call->inboxes[i].first = item->next;
            invoked_message_free(&item->out);
        }
    }
    free(call->inboxes);
    free(call);
}

int invoked_begin(invoked_client *client, const invoked_request *request, invoked_call **out) {
    invoked_channel channels[INVOKED_MAX_CHANNELS_PER_CALL];
    iv_ask ask = {.command = request->command, .headers = request->headers, .header_count = request->header_count, .has_deadline = true,
                  .channels = channels, .channel_count = request->channel_count, .codec = (uint8_t)request->content.codec,
                  .flags = (uint16_t)((request->idempotent ? INVOKED_FLAG_IDEMPOTENT : 0) | (request->sensitive ? INVOKED_FLAG_SENSITIVE : 0))};
    iv_buf parts = {0}, bytes = {0};
    *out = NULL;
    if (request->command == NULL || request->channel_count > INVOKED_MAX_CHANNELS_PER_CALL) return -EINVAL;
    if (client->fd < 0 || client->refused) return -ENOTCONN;
    uint64_t ms = request->timeout_ms > 0 ? request->timeout_ms : INVOKED_DEFAULT_DEADLINE_MS;
    bool has_end = ms < UINT64_MAX / 4000;
    ask.deadline_us = has_end ? ms * 1000 : UINT64_MAX;
    invoked_call *call = calloc(1, sizeof *call);
    iv_inbox *inboxes = calloc(request->channel_count + 1, sizeof *inboxes);
    int64_t result = call == NULL || inboxes == NULL ? -ENOMEM : 0;
    for (size_t i = 0; i < request->channel_count && result == 0; i++) {
        channels[i] = request->channels[i];
        if ((unsigned)channels[i].direction > INVOKED_DIRECTION_UP || (unsigned)channels[i].overflow > INVOKED_OVERFLOW_LATEST)
            result = -EINVAL;
        channels[i].window = channels[i].window > 0 ? channels[i].window : INVOKED_CHANNEL_WINDOW;
        inboxes[i] = (iv_inbox){.index = channels[i].index, .down = channels[i].direction == INVOKED_DIRECTION_DOWN};
        inboxes[i].last = &inboxes[i].first;
    }
    if (result == 0) result = iv_encode_content(&request->content, client->conn.remote_max_message, &parts, &bytes);
    if (result == 0) result = iv_conn_call(&client->conn, &ask, &parts, &bytes, call);
    iv_buf_free(&parts);
    iv_buf_free(&bytes);
    if (result < 0) {
        free(call);
        free(inboxes);
        return (int)result;
    }
    call->client = client;
    client->refs++;
    call->stream = (uint64_t)result;
    call->generation = client->generation;
    call->deadline_us = has_end ? iv_now_us() + ms * 1000 : UINT64_MAX;
    call->inboxes = inboxes;
    call->inbox_count = request->channel_count;
    call->next = client->calls;
    client->calls = call;
    *out = call;
    iv_flush(client); /* if that finds the connection lost, the call says so */
    return 0;
}

bool invoked_is_done(const invoked_call *call) { return call->done; }

int invoked_wait(invoked_call *call, invoked_message **reply, invoked_error *error) {
    while (!call->done) iv_wait_once(call->client, UINT64_MAX);
    if (reply != NULL) { *reply = call->reply != NULL ? &call->reply->out : NULL; call->reply = NULL; }
    if (error != NULL) *error = call->error;
    return call->result;
}

int invoked_cancel(invoked_call *call) {
    invoked_client *client = call->client;
    if (call->generation != client->generation || client->fd < 0) return -ENOTCONN;
    if (iv_conn_cancel(&client->conn, call->stream) == IV_NEVER_SENT) {
        iv_fail_call(call, INVOKED_CODE_CANCELLED, INVOKED_DELIVERY_NOT_DELIVERED, "cancelled before it was sent");
        for (size_t i = 0; i < call->inbox_count; i++) iv_fail_inbox(&call->inboxes[i], INVOKED_CODE_CANCELLED, "cancelled");
    }
    return iv_flush(client);
}

void invoked_call_free(invoked_call *call) {
    if (call == NULL) return;
    invoked_client *client = call->client;
    if (call->generation == client->generation && client->fd >= 0) {
        iv_conn_cancel(&client->conn, call->stream);
        iv_stream *s = iv_find(&client->conn, call->stream);
        if (s != NULL) s->owner = NULL;
        iv_flush(client);
    }
    invoked_call **at = &client->calls;
    while (*at != call) at = &(*at)->next;
    *at = call->next;
    iv_call_free_memory(call);
    iv_client_drop(client);
}

int invoked_do(invoked_client *client, const invoked_request *request, invoked_message **reply, invoked_error *error) {
    invoked_call *call;
    if (reply != NULL) *reply = NULL;
    int result = request->channel_count > 0 ? -EINVAL : invoked_begin(client, request, &call);
    if (result != 0) {
        uint32_t code = result == -ENOTCONN ? INVOKED_CODE_UNAVAILABLE : result == -EMSGSIZE ? INVOKED_CODE_TOO_LARGE
                        : result == -EINVAL ? INVOKED_CODE_INVALID_ARGUMENT : INVOKED_CODE_RESOURCE_EXHAUSTED;
        iv_set_error(error, code, INVOKED_DELIVERY_NOT_DELIVERED, "the call can't be sent: %s%s%s", strerror(-result),
                     client->problem[0] != 0 ? ": " : "", client->problem);
        return result;
    }
    result = invoked_wait(call, reply, error);
    invoked_call_free(call);
    return result;
}

int invoked_invoke(invoked_client *client, const char *command, const char *json, invoked_message **reply, invoked_error *error) {
    invoked_request request = {.command = command};
    if (json != NULL)
        request.content = (invoked_content){.codec = INVOKED_CODEC_JSON, .body = {json, strlen(json)}};
    return invoked_do(client, &request, reply, error);
}

/* ---------------------------------------------------------------- channels */
static uint64_t iv_until(uint64_t timeout_ms) { return timeout_ms < UINT64_MAX / 4000 ? iv_now_us() + timeout_ms * 1000 : UINT64_MAX; }

int invoked_next(invoked_call *call, uint32_t channel, uint64_t timeout_ms, invoked_message **item, invoked_error *error) {
    invoked_client *client = call->client;
    iv_inbox *inbox = iv_inbox_of(call, channel);
    uint64_t until = iv_until(timeout_ms);
    *item = NULL;
    if (inbox == NULL || !inbox->down) return -EINVAL;
    for (bool tried = false; inbox->first == NULL && !inbox->ended; tried = true) {
        if (tried && iv_now_us() >= until) return -EAGAIN;
        iv_wait_once(client, until);
    }
    iv_message *first = inbox->first;
    if (first != NULL) {
        inbox->first = first->next;
        inbox->last = inbox->first != NULL ? inbox->last : &inbox->first;
        if (call->generation == client->generation) iv_conn_give_credit(&client->conn, call->stream, channel, first->credit);
        *item = &first->out;
        return 1;
    }
    if (inbox->failed && error != NULL) *error = inbox->error;
    return inbox->failed ? -invoked_code_errno(inbox->error.code) : 0;
}

int invoked_send(invoked_call *call, uint32_t channel, const invoked_content *item, uint64_t timeout_ms) {
    invoked_client *client = call->client;
    uint64_t until = iv_until(timeout_ms);
    iv_buf parts = {0}, bytes = {0};
    int result = iv_encode_content(item, client->conn.remote_max_message, &parts, &bytes);
    while (result == 0) {
        result = call->generation == client->generation && client->fd >= 0 ? iv_conn_send(&client->conn, call->stream, channel, &parts, &bytes) : -EPIPE;
        if (result != -EAGAIN || iv_now_us() >= until) break;
        result = iv_wait_once(client, until) == 0 ? 0 : -EPIPE;
    }
    iv_buf_free(&parts);
    iv_buf_free(&bytes);
    if (result == 0) iv_flush(client);
    return result;
}

int invoked_end(invoked_call *call, uint32_t channel) {
    invoked_client *client = call->client;
    if (call->generation != client->generation || !iv_conn_end(&client->conn, call->stream, channel, INVOKED_CODE_APPLICATION, ""))
        return -EPIPE;
    iv_flush(client);
    return 0;
}

int invoked_stop(invoked_call *call, uint32_t channel) {
    invoked_client *client = call->client;
    iv_inbox *inbox = iv_inbox_of(call, channel);
    if (inbox == NULL || !inbox->down) return -EINVAL;
    while (inbox->first != NULL) {
        iv_message *item = inbox->first;
        inbox->first = item->next;
        invoked_message_free(&item->out);
    }
    inbox->last = &inbox->first;
    if (call->generation == client->generation) iv_conn_stop(&client->conn, call->stream, channel);
    iv_fail_inbox(inbox, INVOKED_CODE_CANCELLED, "stopped");
    iv_flush(client);
    return 0;
}

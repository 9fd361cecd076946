/* 9P2000.L for load.c: a connection, requests put together, and one answered at a time to set up.
 *
 * What is put is sent by `flush`. Until a client works with many in flight, `answered` awaits each
 * reply, and any error ends the program. Included once.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    RLERROR = 7, TLOPEN = 12, TLCREATE = 14, TGETATTR = 24, TREADDIR = 40, TUNLINKAT = 76,
    TVERSION = 100, TATTACH = 104, TWALK = 110, TREAD = 116, TWRITE = 118,
    TCLUNK = 120, TREMOVE = 122, /* an answer is its request plus one */
    HEADER = 7, RREAD_HEADER = 11, IO_HEADER = 24, RGETATTR_SIZE = 160, QID_SIZE = 13,
    NO_TAG = 0xffff, NO_FID = -1, ROOT_FID = 0,
    NAMES_MAX = 16,
};

struct p9 {
    int fd;
    uint32_t msize;
    unsigned char *in, *out; /* room for msize, and for all that is put before a flush */
    size_t out_length;
    uint64_t replies;
};

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocated(void *old, size_t bytes) {
    void *memory = realloc(old, bytes);
    if (memory == NULL)
        die("out of memory");
    return memory;
}

/* Fields are little-endian, as this machine is (checked in main). */
static uint16_t u16_at(const unsigned char *at) {
    uint16_t value;
    memcpy(&value, at, 2);
    return value;
}

static uint32_t u32_at(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static uint64_t u64_at(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static void put(struct p9 *p9, const void *bytes, size_t length) {
    memcpy(p9->out + p9->out_length, bytes, length);
    p9->out_length += length;
}

static void put_number(struct p9 *p9, uint64_t value, size_t length) {
    put(p9, &value, length);
}

static void put_string(struct p9 *p9, const char *text, size_t length) {
    put_number(p9, length, 2);
    put(p9, text, length);
}

static size_t begin(struct p9 *p9, unsigned type, unsigned tag) {
    size_t start = p9->out_length;
    put_number(p9, 0, 4);
    put_number(p9, type, 1);
    put_number(p9, tag, 2);
    return start;
}

static void end(struct p9 *p9, size_t start) {
    uint32_t size = (uint32_t)(p9->out_length - start);
    memcpy(p9->out + start, &size, 4);
}

/* Replies are read, or are small where requests are not: a send that blocks never waits for us. */
static void flush(struct p9 *p9) {
    for (size_t sent = 0; sent < p9->out_length;) {
        size_t left = p9->out_length - sent;
        ssize_t some = send(p9->fd, p9->out + sent, left, MSG_NOSIGNAL);
        if (some < 0)
            die("send: %s", strerror(errno));
        sent += (size_t)some;
    }
    p9->out_length = 0;
}

static size_t received(struct p9 *p9, void *into, size_t length, int flags) {
    ssize_t some = recv(p9->fd, into, length, flags);
    if (some < 0)
        die("recv: %s", strerror(errno));
    if (some == 0)
        die("the server has closed the connection");
    return (size_t)some;
}

/* Setting up: one request at a time, any error ends the run. Returns the reply's size. */

static uint32_t answered(struct p9 *p9, unsigned type, const char *what) {
    flush(p9);
    size_t have = 0, size = HEADER;
    while (have < size) {
        have += received(p9, p9->in + have, size - have, MSG_WAITALL);
        size = u32_at(p9->in);
        if (size < HEADER || size > p9->msize)
            die("%s: a reply of %zu bytes", what, size);
    }
    p9->replies++;
    if (p9->in[4] == RLERROR && size == HEADER + 4)
        die("%s: %s", what, strerror((int)u32_at(p9->in + HEADER)));
    if (p9->in[4] != type + 1)
        die("%s: a reply of type %u to a request of type %u", what, p9->in[4], type);
    return (uint32_t)size;
}

static void connect_to(struct p9 *p9, const char *address) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in internet = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    int one = 1;
    if (address[0] == '/') {
        if (strlen(address) >= sizeof local.sun_path)
            die("%s: too long for a Unix socket", address);
        strcpy(local.sun_path, address);
        p9->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(p9->fd, (struct sockaddr *)&local, sizeof local) != 0)
            die("%s: %s", address, strerror(errno));
        return;
    }
    char *host = strndup(address, colon ? (size_t)(colon - address) : 0);
    if (colon == NULL || inet_pton(AF_INET, host, &internet.sin_addr) != 1)
        die("%s: neither IPV4:PORT nor /PATH", address);
    internet.sin_port = htons((uint16_t)atoi(colon + 1));
    p9->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(p9->fd, (struct sockaddr *)&internet, sizeof internet) != 0)
        die("%s: %s", address, strerror(errno));
    setsockopt(p9->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    free(host);
}

static void attach(struct p9 *p9, const char *aname, uint32_t uid) {
    size_t start = begin(p9, TVERSION, NO_TAG);
    put_number(p9, p9->msize, 4);
    put_string(p9, "9P2000.L", 8);
    end(p9, start);
    answered(p9, TVERSION, "Tversion");
    if (u16_at(p9->in + HEADER + 4) != 8 || memcmp(p9->in + HEADER + 6, "9P2000.L", 8))
        die("the server does not speak 9P2000.L");
    if (u32_at(p9->in + HEADER) < p9->msize)
        die("the server's msize is %u", u32_at(p9->in + HEADER));
    start = begin(p9, TATTACH, 0);
    put_number(p9, ROOT_FID, 4);
    put_number(p9, (uint32_t)NO_FID, 4);
    put_string(p9, "bench", 5);
    put_string(p9, aname, strlen(aname));
    put_number(p9, uid, 4);
    end(p9, start);
    answered(p9, TATTACH, "Tattach");
}

/* Walks from the root along the first `length` bytes of a path. */
static void walk_to(struct p9 *p9, uint32_t newfid, const char *path, size_t length) {
    const char *names[NAMES_MAX];
    size_t lengths[NAMES_MAX], depth_of = 0;
    for (size_t at = 0; at < length;) {
        size_t name = strcspn(path + at, "/");
        name = name < length - at ? name : length - at;
        if (name) {
            if (depth_of == NAMES_MAX)
                die("%s: more than %d names", path, NAMES_MAX);
            names[depth_of] = path + at;
            lengths[depth_of++] = name;
        }
        at += name + 1;
    }
    size_t start = begin(p9, TWALK, 0);
    put_number(p9, ROOT_FID, 4);
    put_number(p9, newfid, 4);
    put_number(p9, depth_of, 2);
    for (size_t at = 0; at < depth_of; at++)
        put_string(p9, names[at], lengths[at]);
    end(p9, start);
    answered(p9, TWALK, path);
    if (u16_at(p9->in + HEADER) != depth_of)
        die("%s: walked only %u of %zu names", path, u16_at(p9->in + HEADER), depth_of);
}

static void put_getattr(struct p9 *p9, unsigned tag, uint32_t fid) {
    size_t start = begin(p9, TGETATTR, tag);
    put_number(p9, fid, 4);
    put_number(p9, 0x17ff, 8); /* what Linux asks for */
    end(p9, start);
}

static void put_read(struct p9 *p9, unsigned type, unsigned tag, uint32_t fid,
                     uint64_t offset, uint32_t length) {
    size_t start = begin(p9, type, tag);
    put_number(p9, fid, 4);
    put_number(p9, offset, 8);
    put_number(p9, length, 4);
    end(p9, start);
}

static void open_fid(struct p9 *p9, uint32_t fid, const char *path) {
    size_t start = begin(p9, TLOPEN, 0);
    put_number(p9, fid, 4);
    put_number(p9, O_RDONLY, 4);
    end(p9, start);
    answered(p9, TLOPEN, path);
}

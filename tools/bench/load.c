/* A 9P2000.L load generator: keeps a fixed number of requests in flight and checks every reply.
 *
 * It attaches, walks to the paths given on stdin (a line each, up to an empty one), opens them if they
 * are to be read, and then works, on one connection or several. A slot is one place in flight and its
 * number is the tag; its steps follow each other, and the next item begins when the last step is
 * answered. What one recv brings is handled at once, and all that follows goes out by one send. The
 * payload of a read is thrown away in the kernel (MSG_TRUNC), unless it is compared with a file, so
 * that this program costs less than any server: its CPU time is in what it prints.
 *
 * What is wrong with a reply of the right frame is an error, counted, told once, and exit code 1; a
 * broken frame, tag or connection ends the run at once. Prints one line of JSON.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    RLERROR = 7, TLOPEN = 12, TGETATTR = 24, TREADDIR = 40, TVERSION = 100, TATTACH = 104,
    TWALK = 110, TREAD = 116, TCLUNK = 120, /* an answer is its request plus one */
    HEADER = 7, RREAD_HEADER = 11, IO_HEADER = 24, RGETATTR_SIZE = 160, QID_SIZE = 13,
    NO_TAG = 0xffff, NO_FID = -1, ROOT_FID = 0, FIRST_SLOT_FID = 1 << 20,
    REQUEST_MAX = 4096, DEPTH_MAX = 1024, CLIENTS_MAX = 1024, NAMES_MAX = 16,
};

/* What each workload does with an item: walk, getattr, clunk, read; `fids` walks and keeps. */
static const struct workload {
    const char *name, *steps;
    bool opens;  /* the paths, to read them */
    bool lists;  /* the one path, and works on its entries */
    bool ends;   /* after each item once, and not after a time */
} workloads[] = {
    {"getattr", "g", false, false, false},
    {"walk", "wc", false, false, false},
    {"read", "r", true, false, false},
    {"sequential", "r", true, false, true},
    {"list", "wgc", true, true, true},
    {"fids", "w", true, true, true},
};

struct item {
    const char *path, *name;
    uint32_t parent, fid;
    uint64_t size, qid_path;
    const unsigned char *expected; /* the file's bytes, to compare with */
};

struct tally {
    uint64_t ops, requests, bytes, errors;
    uint32_t *latencies_ns;
    size_t latencies_max;
};

struct slot {
    bool busy;
    unsigned step, item;
    uint32_t newfid, count;
    uint64_t offset, started_ns;
};

struct client {
    int fd;
    unsigned depth, in_flight;
    struct slot *slots;
    struct tally *tally;
    unsigned char *in, *out;
    size_t have, out_length, skip; /* bytes of a payload still to be thrown away */
    uint64_t next;                 /* item, counted on without end */
    uint64_t offset;               /* in that item */
    uint32_t next_fid;
};

static const struct workload *work;
static const char *address, *aname = "", *compared;
static uint32_t msize = 65536, uid, count = 65512;
static unsigned depth = 1, clients_count = 1;
static uint64_t limit; /* items in all, for workloads that end */
static double seconds = 1, warming = 0.2;
static struct item *items;
static size_t items_count;
static bool stopping;
static struct tally main_tally, probe_tally;

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

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Fields are little-endian, as this machine is (checked in main). */
static uint16_t u16_at(const unsigned char *at) { uint16_t value; memcpy(&value, at, 2); return value; }
static uint32_t u32_at(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static uint64_t u64_at(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return value; }

static void put(struct client *client, const void *bytes, size_t length) {
    memcpy(client->out + client->out_length, bytes, length);
    client->out_length += length;
}

static void put_number(struct client *client, uint64_t value, size_t length) {
    put(client, &value, length);
}

static void put_string(struct client *client, const char *text, size_t length) {
    put_number(client, length, 2);
    put(client, text, length);
}

static size_t begin(struct client *client, unsigned type, unsigned tag) {
    size_t start = client->out_length;
    put_number(client, 0, 4);
    put_number(client, type, 1);
    put_number(client, tag, 2);
    return start;
}

static void end(struct client *client, size_t start) {
    uint32_t size = (uint32_t)(client->out_length - start);
    memcpy(client->out + start, &size, 4);
}

/* Requests are small and their replies are read: a send that blocks never waits for us. */
static void flush(struct client *client) {
    for (size_t sent = 0; sent < client->out_length;) {
        ssize_t some = send(client->fd, client->out + sent, client->out_length - sent, MSG_NOSIGNAL);
        if (some < 0)
            die("send: %s", strerror(errno));
        sent += (size_t)some;
    }
    client->out_length = 0;
}

static size_t received(struct client *client, void *into, size_t length, int flags) {
    ssize_t some = recv(client->fd, into, length, flags);
    if (some < 0)
        die("recv: %s", strerror(errno));
    if (some == 0)
        die("the server has closed the connection");
    return (size_t)some;
}

/* Setting up: one request at a time, any error ends the run. Returns the reply's size. */

static uint32_t answered(struct client *client, unsigned type, const char *what) {
    flush(client);
    size_t have = 0, size = HEADER;
    while (have < size) {
        have += received(client, client->in + have, size - have, MSG_WAITALL);
        size = u32_at(client->in);
        if (size < HEADER || size > msize)
            die("%s: a reply of %zu bytes", what, size);
    }
    if (client->in[4] == RLERROR && size == HEADER + 4)
        die("%s: %s", what, strerror((int)u32_at(client->in + HEADER)));
    if (client->in[4] != type + 1)
        die("%s: a reply of type %u to a request of type %u", what, client->in[4], type);
    return (uint32_t)size;
}

static void connect_to(struct client *client) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in internet = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    int one = 1;
    if (address[0] == '/') {
        if (strlen(address) >= sizeof local.sun_path)
            die("%s: too long for a Unix socket", address);
        strcpy(local.sun_path, address);
        client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(client->fd, (struct sockaddr *)&local, sizeof local) != 0)
            die("%s: %s", address, strerror(errno));
        return;
    }
    char *host = strndup(address, colon ? (size_t)(colon - address) : 0);
    if (colon == NULL || inet_pton(AF_INET, host, &internet.sin_addr) != 1)
        die("%s: neither IPV4:PORT nor /PATH", address);
    internet.sin_port = htons((uint16_t)atoi(colon + 1));
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client->fd, (struct sockaddr *)&internet, sizeof internet) != 0)
        die("%s: %s", address, strerror(errno));
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    free(host);
}

static void attach(struct client *client) {
    size_t start = begin(client, TVERSION, NO_TAG);
    put_number(client, msize, 4);
    put_string(client, "9P2000.L", 8);
    end(client, start);
    answered(client, TVERSION, "Tversion");
    if (u16_at(client->in + HEADER + 4) != 8 || memcmp(client->in + HEADER + 6, "9P2000.L", 8))
        die("the server does not speak 9P2000.L");
    if (u32_at(client->in + HEADER) < msize)
        die("the server's msize is %u", u32_at(client->in + HEADER));
    start = begin(client, TATTACH, 0);
    put_number(client, ROOT_FID, 4);
    put_number(client, (uint32_t)NO_FID, 4);
    put_string(client, "bench", 5);
    put_string(client, aname, strlen(aname));
    put_number(client, uid, 4);
    end(client, start);
    answered(client, TATTACH, "Tattach");
}

/* Walks from the root along the first `length` bytes of a path. */
static void walk_to(struct client *client, uint32_t newfid, const char *path, size_t length) {
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
    size_t start = begin(client, TWALK, 0);
    put_number(client, ROOT_FID, 4);
    put_number(client, newfid, 4);
    put_number(client, depth_of, 2);
    for (size_t at = 0; at < depth_of; at++)
        put_string(client, names[at], lengths[at]);
    end(client, start);
    answered(client, TWALK, path);
    if (u16_at(client->in + HEADER) != depth_of)
        die("%s: walked only %u of %zu names", path, u16_at(client->in + HEADER), depth_of);
}

static void put_getattr(struct client *client, unsigned tag, uint32_t fid) {
    size_t start = begin(client, TGETATTR, tag);
    put_number(client, fid, 4);
    put_number(client, 0x17ff, 8); /* what Linux asks for */
    end(client, start);
}

static void put_read(struct client *client, unsigned type, unsigned tag, uint32_t fid,
                     uint64_t offset, uint32_t length) {
    size_t start = begin(client, type, tag);
    put_number(client, fid, 4);
    put_number(client, offset, 8);
    put_number(client, length, 4);
    end(client, start);
}

static void open_fid(struct client *client, uint32_t fid, const char *path) {
    size_t start = begin(client, TLOPEN, 0);
    put_number(client, fid, 4);
    put_number(client, O_RDONLY, 4);
    end(client, start);
    answered(client, TLOPEN, path);
}

static void map_expected(struct item *item) {
    char *path;
    if (item->size == 0 || asprintf(&path, "%s/%s", compared, item->path) < 0)
        return;
    int fd = open(path, O_RDONLY);
    void *map = mmap(NULL, item->size, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED)
        die("%s: %s", path, strerror(errno));
    item->expected = map;
    close(fd);
    free(path);
}

static void find_item(struct client *client, struct item *item) {
    const char *slash = strrchr(item->path, '/');
    item->name = slash ? slash + 1 : item->path;
    size_t above = slash ? (size_t)(slash - item->path) : 0; /* walks start there; or in the list */
    walk_to(client, item->parent, item->path, work->lists ? strlen(item->path) : above);
    walk_to(client, item->fid, item->path, strlen(item->path));
    put_getattr(client, 0, item->fid);
    if (answered(client, TGETATTR, item->path) != RGETATTR_SIZE)
        die("%s: an Rgetattr of the wrong size", item->path);
    item->qid_path = u64_at(client->in + HEADER + 8 + 5);
    item->size = u64_at(client->in + HEADER + 8 + QID_SIZE + 4 + 4 + 4 + 8 + 8);
    if (work->opens)
        open_fid(client, item->fid, item->path);
}

/* Replaces the one item, a directory, by its entries. */
static void list_entries(struct client *client) {
    struct item directory = items[0];
    size_t room = 1;
    uint64_t offset = 0;
    items_count = 0;
    for (;;) {
        put_read(client, TREADDIR, 0, directory.fid, offset, msize - IO_HEADER);
        uint32_t size = answered(client, TREADDIR, directory.path);
        const unsigned char *at = client->in + HEADER + 4, *stop = client->in + size;
        if (at >= stop)
            return;
        while (at < stop) {
            uint16_t length = u16_at(at + QID_SIZE + 9);
            const char *name = (const char *)at + QID_SIZE + 11;
            if (!(length <= 2 && memcmp(name, "..", length) == 0)) {
                if (items_count == room)
                    items = allocated(items, sizeof *items * (room *= 2));
                char *copy = strndup(name, length);
                items[items_count++] = (struct item){
                    .path = copy, .name = copy, .parent = directory.parent, .qid_path = u64_at(at + 5)};
            }
            offset = u64_at(at + QID_SIZE);
            at += QID_SIZE + 11 + length;
        }
    }
}

/* Working. */

static void error(struct client *client, struct slot *slot, const char *what) {
    if (client->tally->errors++ == 0)
        fprintf(stderr, "load: %s: %s\n", items[slot->item].path, what);
}

static void put_step(struct client *client, struct slot *slot) {
    unsigned tag = (unsigned)(slot - client->slots);
    const struct item *item = &items[slot->item];
    bool walked = work->steps[0] == 'w';
    size_t start;
    switch (work->steps[slot->step]) {
    case 'g':
        put_getattr(client, tag, walked ? slot->newfid : item->fid);
        return;
    case 'r':
        put_read(client, TREAD, tag, item->fid, slot->offset, slot->count);
        return;
    case 'w':
        start = begin(client, TWALK, tag);
        put_number(client, item->parent, 4);
        put_number(client, slot->newfid, 4);
        put_number(client, 1, 2);
        put_string(client, item->name, strlen(item->name));
        end(client, start);
        return;
    case 'c':
        start = begin(client, TCLUNK, tag);
        put_number(client, slot->newfid, 4);
        end(client, start);
    }
}

/* Chooses the next part of a file to read: whole counts, except when the workload ends with it. */
static void choose_part(struct client *client, struct slot *slot) {
    for (;;) {
        if (work->ends && client->next >= limit)
            return;
        slot->item = (unsigned)(client->next % items_count);
        uint64_t left = items[slot->item].size - client->offset;
        if (left >= count || (work->ends && left > 0)) {
            slot->offset = client->offset;
            slot->count = left < count ? (uint32_t)left : count;
            client->offset += slot->count;
            slot->busy = true;
            return;
        }
        client->next++;
        client->offset = 0;
    }
}

static void start_next(struct client *client, struct slot *slot, uint64_t now) {
    slot->busy = false;
    if (stopping)
        return;
    if (work->steps[0] == 'r')
        choose_part(client, slot);
    else if (!work->ends || client->next < limit) {
        slot->item = (unsigned)(client->next++ % items_count);
        slot->newfid = strcmp(work->name, "fids") ? FIRST_SLOT_FID + (uint32_t)(slot - client->slots)
                                                 : client->next_fid++;
        slot->busy = true;
    }
    if (!slot->busy)
        return;
    slot->step = 0;
    slot->started_ns = now;
    client->in_flight++;
    put_step(client, slot);
}

static void count_op(struct tally *tally, uint64_t took_ns) {
    if (tally->ops == tally->latencies_max) {
        tally->latencies_max = tally->latencies_max ? 2 * tally->latencies_max : 1 << 16;
        tally->latencies_ns = allocated(tally->latencies_ns, tally->latencies_max * sizeof(uint32_t));
    }
    tally->latencies_ns[tally->ops++] = took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX;
}

/* What is wrong with a reply to a slot's step, or NULL. */
static const char *wrong(const struct slot *slot, const unsigned char *reply, uint32_t size) {
    const struct item *item = &items[slot->item];
    switch (work->steps[slot->step]) {
    case 'g':
        if (reply[4] != TGETATTR + 1 || size != RGETATTR_SIZE)
            return "no Rgetattr";
        return u64_at(reply + HEADER + 8 + 5) == item->qid_path ? NULL : "getattr: another qid";
    case 'w':
        if (reply[4] != TWALK + 1 || size != HEADER + 2 + QID_SIZE || u16_at(reply + HEADER) != 1)
            return "no Rwalk of one name";
        return u64_at(reply + HEADER + 2 + 5) == item->qid_path ? NULL : "walk: another qid";
    case 'r':
        if (reply[4] != TREAD + 1 || size != RREAD_HEADER + slot->count
            || u32_at(reply + HEADER) != slot->count)
            return "no Rread of the count asked for";
        if (item->expected && memcmp(item->expected + slot->offset, reply + RREAD_HEADER, slot->count))
            return "the bytes read are not the file's";
        return NULL;
    default:
        return reply[4] == TCLUNK + 1 && size == HEADER ? NULL : "no Rclunk";
    }
}

static void handle(struct client *client, const unsigned char *reply, uint32_t size, uint64_t now) {
    unsigned tag = u16_at(reply + 5);
    if (tag >= client->depth || !client->slots[tag].busy)
        die("a reply with tag %u, of no request in flight", tag);
    struct slot *slot = &client->slots[tag];
    const char *fault = wrong(slot, reply, size);
    if (fault && reply[4] == RLERROR && size == HEADER + 4)
        fault = strerror((int)u32_at(reply + HEADER));
    client->tally->requests++;
    if (fault)
        error(client, slot, fault);
    else if (work->steps[++slot->step]) {
        put_step(client, slot);
        return;
    } else {
        client->tally->bytes += slot->count;
        count_op(client->tally, now - slot->started_ns);
    }
    client->in_flight--;
    start_next(client, slot, now);
}

/* Takes what one recv brings. A read's reply is handled when its payload is there. */
static void serve(struct client *client) {
    bool discards = work->steps[0] == 'r' && compared == NULL;
    int waiting = clients_count == 1 ? MSG_WAITALL : 0;
    if (client->skip) {
        client->skip -= received(client, client->in + RREAD_HEADER, client->skip, MSG_TRUNC | waiting);
        if (client->skip == 0) {
            client->have = 0;
            handle(client, client->in, u32_at(client->in), now_ns());
            flush(client);
        }
        return;
    }
    size_t most = discards ? RREAD_HEADER : msize;
    client->have += received(client, client->in + client->have, most - client->have, 0);
    uint64_t now = now_ns();
    size_t at = 0;
    while (client->have - at >= HEADER) {
        const unsigned char *reply = client->in + at;
        uint32_t size = u32_at(reply);
        if (size < HEADER || size > msize)
            die("a reply of %u bytes", size);
        if (client->have - at < size) {
            if (discards && client->have == RREAD_HEADER)
                client->skip = size - RREAD_HEADER;
            break;
        }
        handle(client, reply, size, now);
        at += size;
    }
    memmove(client->in, client->in + at, client->have - at);
    client->have -= at;
    flush(client);
}

static unsigned in_flight(struct client *clients) {
    unsigned sum = 0;
    for (unsigned at = 0; at < clients_count; at++)
        sum += clients[at].in_flight;
    return sum;
}

static void serve_ready(struct client *clients, int poll) {
    struct epoll_event events[64];
    if (clients_count == 1) {
        serve(clients);
        return;
    }
    int ready = epoll_wait(poll, events, 64, 100);
    for (int at = 0; at < ready; at++)
        serve(events[at].data.ptr);
}

static void forget(struct tally *tally) {
    tally->ops = tally->requests = tally->bytes = 0; /* errors count from the start */
}

/* Returns the measured seconds, and this process's CPU seconds in them. */
static double run(struct client *clients, double *cpu) {
    int poll = epoll_create1(0);
    uint64_t start = now_ns();
    double cpu_start = cpu_s(), took = 0;
    bool warm = work->ends;
    if (work->lists)
        list_entries(clients);
    limit = limit ? limit : items_count;
    for (unsigned at = 0; at < clients_count; at++) {
        struct client *client = &clients[at];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        epoll_ctl(poll, EPOLL_CTL_ADD, client->fd, &event);
        for (unsigned slot = 0; slot < client->depth; slot++)
            start_next(client, &client->slots[slot], now_ns());
        flush(client);
    }
    while (in_flight(clients)) {
        serve_ready(clients, poll);
        if (work->ends || stopping)
            continue;
        uint64_t now = now_ns();
        if (!warm && (double)(now - start) / 1e9 >= warming) {
            warm = true;
            start = now;
            cpu_start = cpu_s();
            forget(&main_tally);
            forget(&probe_tally);
        } else if (warm && (double)(now - start) / 1e9 >= seconds) {
            stopping = true; /* what is in flight is awaited, and counted with the rest */
        }
    }
    took = (double)(now_ns() - start) / 1e9;
    *cpu = cpu_s() - cpu_start;
    return took;
}

static int by_value(const void *left, const void *right) {
    uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

static double percentile_us(const struct tally *tally, double share) {
    if (tally->ops == 0)
        return 0;
    return tally->latencies_ns[(size_t)(share * (double)(tally->ops - 1))] / 1e3;
}

static void print_tally(const struct tally *tally, double took) {
    qsort(tally->latencies_ns, tally->ops, sizeof(uint32_t), by_value);
    printf("\"ops\": %lu, \"requests\": %lu, \"bytes\": %lu, \"errors\": %lu, \"ops_s\": %.1f, "
           "\"bytes_s\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f",
           tally->ops, tally->requests, tally->bytes, tally->errors, (double)tally->ops / took,
           (double)tally->bytes / took, percentile_us(tally, 0.5), percentile_us(tally, 0.9),
           percentile_us(tally, 0.99), percentile_us(tally, 1));
}

static void read_paths(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 1) {
        line[length - 1] = line[length - 1] == '\n' ? 0 : line[length - 1];
        items = allocated(items, sizeof *items * (items_count + 1));
        uint32_t fid = 1 + 2 * (uint32_t)items_count;
        items[items_count++] = (struct item){.path = strdup(line), .parent = fid, .fid = fid + 1};
    }
    free(line);
    if (items_count == 0 || (work->lists && items_count != 1))
        die(work->lists ? "give one directory on stdin" : "give paths on stdin");
}

static void prepare(struct client *client, unsigned its_depth, struct tally *tally) {
    client->depth = its_depth;
    client->tally = tally;
    client->slots = calloc(its_depth, sizeof *client->slots);
    client->in = allocated(NULL, msize);
    client->out = allocated(NULL, (size_t)its_depth * REQUEST_MAX);
    client->next_fid = FIRST_SLOT_FID;
    connect_to(client);
    attach(client);
    bool useful = work->steps[0] != 'r';
    for (size_t at = 0; at < items_count; at++) {
        find_item(client, &items[at]);
        if (compared && items[at].expected == NULL)
            map_expected(&items[at]);
        useful = useful || work->ends || items[at].size >= count;
    }
    if (!useful)
        die("no file has %u bytes to read", count);
}

static void usage(void) {
    fputs("usage: load [OPTIONS] ADDRESS getattr|walk|read|sequential|list|fids < PATHS\n"
          "  ADDRESS   IPV4:PORT or /PATH of a Unix socket\n"
          "  -a ANAME  what to attach to           -u UID      as whom (0)\n"
          "  -d DEPTH  requests in flight (1)      -c CLIENTS  connections (1)\n"
          "  -p        one client more, at depth 1, reported as \"probe\"\n"
          "  -m MSIZE  (65536)                     -k COUNT    bytes a read (65512)\n"
          "  -s SECONDS measured, after 0.2 unmeasured (1)\n"
          "  -n ITEMS  in all, for list and fids (each once)\n"
          "  -v DIR    compare what is read with the files there\n"
          "  -H        stay connected until stdin ends\n", stderr);
    exit(2);
}

int main(int argc, char **argv) {
    bool holds = false, probing = false;
    const uint16_t order = 1;
    if (*(const unsigned char *)&order != 1)
        die("made for little-endian machines");
    for (int option; (option = getopt(argc, argv, "a:u:d:c:pm:k:s:n:v:H")) != -1;) {
        switch (option) {
        case 'a': aname = optarg; break;
        case 'u': uid = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'd': depth = (unsigned)atoi(optarg); break;
        case 'c': clients_count = (unsigned)atoi(optarg); break;
        case 'p': probing = true; break;
        case 'm': msize = (uint32_t)atoi(optarg); break;
        case 'k': count = (uint32_t)atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'n': limit = strtoull(optarg, NULL, 10); break;
        case 'v': compared = optarg; break;
        case 'H': holds = true; break;
        default: usage();
        }
    }
    if (argc - optind != 2)
        usage();
    address = argv[optind];
    for (size_t at = 0; at < sizeof workloads / sizeof *workloads; at++)
        if (strcmp(workloads[at].name, argv[optind + 1]) == 0)
            work = &workloads[at];
    clients_count += probing;
    if (work == NULL || depth < 1 || depth > DEPTH_MAX || clients_count < 1
        || clients_count > CLIENTS_MAX || msize < REQUEST_MAX || count > msize - IO_HEADER)
        usage();
    if (clients_count > 1 && work->lists)
        die("list and fids take one client");
    read_paths();
    struct client *clients = calloc(clients_count, sizeof *clients);
    for (unsigned at = 0; at < clients_count; at++) {
        bool probe = probing && at == 0;
        prepare(&clients[at], probe ? 1 : depth, probe ? &probe_tally : &main_tally);
    }
    double cpu, took = run(clients, &cpu);
    printf("{\"seconds\": %.4f, \"cpu_s\": %.4f, ", took, cpu);
    print_tally(&main_tally, took);
    if (probing) {
        fputs(", \"probe\": {", stdout);
        print_tally(&probe_tally, took);
        putchar('}');
    }
    puts("}");
    fflush(stdout);
    while (holds && getchar() != EOF)
        continue;
    return main_tally.errors || probe_tally.errors ? 1 : 0;
}

/* A 9P2000.L load generator: keeps a fixed number of requests in flight and checks every reply.
 *
 * It attaches, walks to the paths given on stdin (a line each, up to an empty one), opens them if
 * they are to be read, and then works, on one connection or several. A slot is one place in flight
 * and its number is the tag; its steps follow each other, and the next item begins when the last
 * step is answered. What one recv brings is handled at once, and all that follows goes out by one
 * send. The payload of a read is thrown away in the kernel (MSG_TRUNC), unless it is compared with
 * a file, so that this program costs less than any server: its CPU time is in what it prints.
 *
 * What is wrong with a reply of the right frame is an error, counted, told once, and exit code 1; a
 * broken frame, tag or connection ends the run at once. Prints one line of JSON.
 */

#include "p9.h"

#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

enum {
    REQUEST_MAX = 4096, WRITTEN = 4096, /* without and beside what a Twrite holds */
    DEPTH_MAX = 1024, CLIENTS_MAX = 1024, FIRST_SLOT_FID = 1 << 20,
    CREATED_MODE = 0644,
};

/* What each workload does with an item: walk, getattr, clunk, read; `fids` walks and keeps.
 *
 * Items of `create` are directories: a file is created in one, written, and unlinked. Its steps are
 * Twalk (of no name), Tlcreate, Tgetattr, Twrite, Tclunk and Tunlinkat. `create-remove` unlinks by
 * Twalk and Tremove, as Linux does where there is no Tunlinkat (diod 1.0.24).
 */
static const struct workload {
    const char *name, *steps;
    bool opens;  /* the paths, to read them */
    bool lists;  /* the one path, and works on its entries */
    bool ends;   /* after each item once, and not after a time */
    bool keeps;  /* every fid */
} workloads[] = {
    {"getattr", "g", false, false, false, false},
    {"walk", "wc", false, false, false, false},
    {"read", "r", true, false, false, false},
    {"random", "r", true, false, false, false},
    {"sequential", "r", true, false, true, false},
    {"list", "wgc", true, true, true, false},
    {"fids", "w", true, true, true, true},
    {"create", "dngpcu", false, false, false, false},
    {"create-remove", "dngpcfm", false, false, false, false},
};

struct item {
    const char *path, *name;
    uint32_t parent, fid;
    uint64_t size, qid_path;
    const unsigned char *expected; /* the file's bytes, to compare with */
};

struct tally {
    uint64_t ops, requests, bytes, errors; /* the first three of the time measured */
    uint32_t *latencies_ns;
    size_t latencies_max;
};

struct slot {
    bool busy;
    unsigned step, item;
    uint32_t newfid, count;
    uint64_t offset, started_ns;
    uint64_t qid_path;    /* of the item, or of the file that was created */
    uint64_t file;        /* the number in its name */
};

struct client {
    struct p9 p9;
    unsigned depth, in_flight;
    struct slot *slots;
    struct tally *tally;
    size_t have, skip; /* bytes of a payload still to be thrown away */
    uint64_t next;                 /* item, counted on without end */
    uint64_t offset;               /* in that item */
    uint32_t next_fid;
};

static const struct workload *work;
static const char *address, *aname = "", *compared;
static uint32_t msize = 65536, uid, count = 65512;
static unsigned depth = 1, clients_count = 1;
static uint64_t limit; /* items in all, for workloads that end */
static uint64_t window_start, window = UINT64_MAX; /* the part of each file to read */
static double seconds = 1, warming = 0.2;
static struct item *items;
static size_t items_count;
static bool stopping;
static struct tally main_tally, probe_tally;
static uint64_t files; /* created so far */
static unsigned char written[WRITTEN];

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
    walk_to(&client->p9, item->parent, item->path, work->lists ? strlen(item->path) : above);
    walk_to(&client->p9, item->fid, item->path, strlen(item->path));
    put_getattr(&client->p9, 0, item->fid);
    if (answered(&client->p9, TGETATTR, item->path) != RGETATTR_SIZE)
        die("%s: an Rgetattr of the wrong size", item->path);
    item->qid_path = u64_at(client->p9.in + HEADER + 8 + 5);
    item->size = u64_at(client->p9.in + HEADER + 8 + QID_SIZE + 4 + 4 + 4 + 8 + 8);
    if (work->opens)
        open_fid(&client->p9, item->fid, item->path);
}

/* Replaces the one item, a directory, by its entries. */
static void list_entries(struct client *client) {
    struct item directory = items[0];
    size_t room = 1;
    uint64_t offset = 0;
    items_count = 0;
    for (;;) {
        put_read(&client->p9, TREADDIR, 0, directory.fid, offset, msize - IO_HEADER);
        uint32_t size = answered(&client->p9, TREADDIR, directory.path);
        const unsigned char *at = client->p9.in + HEADER + 4, *stop = client->p9.in + size;
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
                    .path = copy, .name = copy, .parent = directory.parent,
                    .qid_path = u64_at(at + 5)};
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

static void put_file_name(struct client *client, const struct slot *slot) {
    char name[64];
    int length = snprintf(name, sizeof name, "load-%d-%lu", getpid(), slot->file);
    put_string(&client->p9, name, (size_t)length);
}

static void put_step(struct client *client, struct slot *slot) {
    unsigned tag = (unsigned)(slot - client->slots);
    const struct item *item = &items[slot->item];
    bool walked = work->steps[0] == 'w' || work->steps[0] == 'd';
    size_t start;
    switch (work->steps[slot->step]) {
    case 'g':
        put_getattr(&client->p9, tag, walked ? slot->newfid : item->fid);
        return;
    case 'r':
        put_read(&client->p9, TREAD, tag, item->fid, slot->offset, slot->count);
        return;
    case 'w':
        start = begin(&client->p9, TWALK, tag);
        put_number(&client->p9, item->parent, 4);
        put_number(&client->p9, slot->newfid, 4);
        put_number(&client->p9, 1, 2);
        put_string(&client->p9, item->name, strlen(item->name));
        end(&client->p9, start);
        return;
    case 'd':
        start = begin(&client->p9, TWALK, tag);
        put_number(&client->p9, item->fid, 4);
        put_number(&client->p9, slot->newfid, 4);
        put_number(&client->p9, 0, 2);
        end(&client->p9, start);
        return;
    case 'n':
        slot->file = files++;
        start = begin(&client->p9, TLCREATE, tag);
        put_number(&client->p9, slot->newfid, 4);
        put_file_name(client, slot);
        put_number(&client->p9, O_CREAT | O_WRONLY, 4);
        put_number(&client->p9, CREATED_MODE, 4);
        put_number(&client->p9, uid, 4);
        end(&client->p9, start);
        return;
    case 'p':
        start = begin(&client->p9, TWRITE, tag);
        put_number(&client->p9, slot->newfid, 4);
        put_number(&client->p9, 0, 8);
        put_number(&client->p9, WRITTEN, 4);
        put(&client->p9, written, WRITTEN);
        end(&client->p9, start);
        return;
    case 'f':
        start = begin(&client->p9, TWALK, tag);
        put_number(&client->p9, item->fid, 4);
        put_number(&client->p9, slot->newfid, 4);
        put_number(&client->p9, 1, 2);
        put_file_name(client, slot);
        end(&client->p9, start);
        return;
    case 'm':
    case 'c':
        start = begin(&client->p9, work->steps[slot->step] == 'm' ? TREMOVE : TCLUNK, tag);
        put_number(&client->p9, slot->newfid, 4);
        end(&client->p9, start);
        return;
    case 'u':
        start = begin(&client->p9, TUNLINKAT, tag);
        put_number(&client->p9, item->fid, 4);
        put_file_name(client, slot);
        put_number(&client->p9, 0, 4);
        end(&client->p9, start);
    }
}

/* Bytes of a file that are in the window. */
static uint64_t windowed(const struct item *item) {
    uint64_t size = item->size > window_start ? item->size - window_start : 0;
    return size < window ? size : window;
}

/* Chooses one of a file's whole counts, anywhere in the window; the same ones in every run. */
static void choose_anywhere(struct client *client, struct slot *slot) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    slot->item = (unsigned)(client->next++ % items_count);
    uint64_t size = windowed(&items[slot->item]);
    if (size < count)
        die("%s has no %u bytes in the window", items[slot->item].path, count);
    slot->offset = window_start + (state >> 16) % (size / count) * count;
    slot->count = count;
    slot->busy = true;
}

/* Chooses the next part of a file to read: whole counts, except when the workload ends with it. */
static void choose_part(struct client *client, struct slot *slot) {
    for (;;) {
        if (work->ends && client->next >= limit)
            return;
        slot->item = (unsigned)(client->next % items_count);
        uint64_t left = windowed(&items[slot->item]) - client->offset;
        if (left >= count || (work->ends && left > 0)) {
            slot->offset = window_start + client->offset;
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
    if (strcmp(work->name, "random") == 0)
        choose_anywhere(client, slot);
    else if (work->steps[0] == 'r')
        choose_part(client, slot);
    else if (!work->ends || client->next < limit) {
        slot->item = (unsigned)(client->next++ % items_count);
        slot->newfid = FIRST_SLOT_FID + (uint32_t)(slot - client->slots);
        if (work->keeps)
            slot->newfid = client->next_fid++;
        slot->busy = true;
    }
    if (!slot->busy)
        return;
    slot->step = 0;
    slot->qid_path = items[slot->item].qid_path;
    slot->started_ns = now;
    client->in_flight++;
    put_step(client, slot);
}

static void count_op(struct tally *tally, uint64_t took_ns) {
    if (tally->ops == tally->latencies_max) {
        tally->latencies_max = tally->latencies_max ? 2 * tally->latencies_max : 1 << 16;
        tally->latencies_ns =
            allocated(tally->latencies_ns, tally->latencies_max * sizeof *tally->latencies_ns);
    }
    tally->latencies_ns[tally->ops++] = took_ns < UINT32_MAX ? (uint32_t)took_ns : UINT32_MAX;
}

/* What is wrong with a reply to a slot's step, or NULL. */
static const char *wrong(struct slot *slot, const unsigned char *reply, uint32_t size) {
    const struct item *item = &items[slot->item];
    switch (work->steps[slot->step]) {
    case 'g':
        if (reply[4] != TGETATTR + 1 || size != RGETATTR_SIZE)
            return "no Rgetattr";
        return u64_at(reply + HEADER + 8 + 5) == slot->qid_path ? NULL : "getattr: another qid";
    case 'd':
        return reply[4] == TWALK + 1 && size == HEADER + 2 ? NULL : "no Rwalk of no name";
    case 'n':
        if (reply[4] != TLCREATE + 1 || size != HEADER + QID_SIZE + 4)
            return "no Rlcreate";
        slot->qid_path = u64_at(reply + HEADER + 5);
        return NULL;
    case 'p':
        if (reply[4] != TWRITE + 1 || size != HEADER + 4 || u32_at(reply + HEADER) != WRITTEN)
            return "no Rwrite of all that was given";
        return NULL;
    case 'm':
        return reply[4] == TREMOVE + 1 && size == HEADER ? NULL : "no Rremove";
    case 'u':
        return reply[4] == TUNLINKAT + 1 && size == HEADER ? NULL : "no Runlinkat";
    case 'f':
    case 'w':
        if (reply[4] != TWALK + 1 || size != HEADER + 2 + QID_SIZE || u16_at(reply + HEADER) != 1)
            return "no Rwalk of one name";
        return u64_at(reply + HEADER + 2 + 5) == slot->qid_path ? NULL : "walk: another qid";
    case 'r':
        if (reply[4] != TREAD + 1 || size != RREAD_HEADER + slot->count
            || u32_at(reply + HEADER) != slot->count)
            return "no Rread of the count asked for";
        if (item->expected == NULL)
            return NULL;
        reply += RREAD_HEADER;
        if (memcmp(item->expected + slot->offset, reply, slot->count))
            return "not the file's bytes";
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
    client->p9.replies++;
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
        void *nowhere = client->p9.in + RREAD_HEADER;
        client->skip -= received(&client->p9, nowhere, client->skip, MSG_TRUNC | waiting);
        if (client->skip == 0) {
            client->have = 0;
            handle(client, client->p9.in, u32_at(client->p9.in), now_ns());
            flush(&client->p9);
        }
        return;
    }
    size_t most = discards ? RREAD_HEADER : msize;
    client->have += received(&client->p9, client->p9.in + client->have, most - client->have, 0);
    uint64_t now = now_ns();
    size_t at = 0;
    while (client->have - at >= HEADER) {
        const unsigned char *reply = client->p9.in + at;
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
    memmove(client->p9.in, client->p9.in + at, client->have - at);
    client->have -= at;
    flush(&client->p9);
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
        epoll_ctl(poll, EPOLL_CTL_ADD, client->p9.fd, &event);
        for (unsigned slot = 0; slot < client->depth; slot++)
            start_next(client, &client->slots[slot], now_ns());
        flush(&client->p9);
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
    client->p9.in = allocated(NULL, msize);
    client->p9.out = allocated(NULL, (size_t)its_depth * (REQUEST_MAX + WRITTEN));
    client->next_fid = FIRST_SLOT_FID;
    client->p9.msize = msize;
    connect_to(&client->p9, address);
    attach(&client->p9, aname, uid);
    bool useful = work->steps[0] != 'r';
    for (size_t at = 0; at < items_count; at++) {
        find_item(client, &items[at]);
        if (compared && items[at].expected == NULL)
            map_expected(&items[at]);
        useful = useful || work->ends || windowed(&items[at]) >= count;
    }
    if (!useful)
        die("no file has %u bytes to read", count);
}

static void usage(void) {
    fputs("usage: load [OPTIONS] ADDRESS WORKLOAD < PATHS\n"
          "  WORKLOAD  getattr, walk, read, random, sequential, list, fids, create\n"
          "            or create-remove (without Tunlinkat)\n"
          "  ADDRESS   IPV4:PORT or /PATH of a Unix socket\n"
          "  -a ANAME  what to attach to           -u UID      as whom (0)\n"
          "  -d DEPTH  requests in flight (1)      -c CLIENTS  connections (1)\n"
          "  -p        one client more, at depth 1, reported as \"probe\"\n"
          "  -m MSIZE  (65536)                     -k COUNT    bytes a read (65512)\n"
          "  -s SECONDS measured, after 0.2 unmeasured (1)\n"
          "  -n ITEMS  in all, for list and fids (each once)\n"
          "  -o OFFSET of the window of each file that is read, whole counts in it (0)\n"
          "  -w LENGTH of it (up to each file's end)\n"
          "  -v DIR    compare what is read with the files there\n"
          "  -H        stay connected until stdin ends\n", stderr);
    exit(2);
}

int main(int argc, char **argv) {
    bool holds = false, probing = false;
    const uint16_t order = 1;
    if (*(const unsigned char *)&order != 1)
        die("made for little-endian machines");
    for (int option; (option = getopt(argc, argv, "a:u:d:c:pm:k:s:n:o:w:v:H")) != -1;) {
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
        case 'o': window_start = strtoull(optarg, NULL, 10); break;
        case 'w': window = strtoull(optarg, NULL, 10); break;
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
        || clients_count > CLIENTS_MAX || msize < REQUEST_MAX || count < 1
        || count > msize - IO_HEADER || window < count)
        usage();
    if (clients_count > 1 && work->lists)
        die("list and fids take one client");
    read_paths();
    struct client *clients = calloc(clients_count, sizeof *clients);
    for (unsigned at = 0; at < clients_count; at++) {
        bool probe = probing && at == 0;
        prepare(&clients[at], probe ? 1 : depth, probe ? &probe_tally : &main_tally);
    }
    double cpu, took = run(clients, &cpu), cpu_total_s = cpu_s();
    printf("{\"seconds\": %.4f, \"cpu_s\": %.4f, ", took, cpu);
    uint64_t replies_total = 0; /* with setting up and warming */
    for (unsigned at = 0; at < clients_count; at++)
        replies_total += clients[at].p9.replies;
    printf("\"replies_total\": %lu, \"cpu_total_s\": %.4f, ", replies_total, cpu_total_s);
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

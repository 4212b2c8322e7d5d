/* A stand-in for the NVIDIA driver's library libnvidia-ml.so.1: NVML's own calls, answered from a text file.
 *
 * The file is named by the environment variable NVML_STANDIN and read at each call, so a test changes the machine by
 * replacing it. No file is a driver that is not loaded. tests/support/nvml/__init__.py writes it and says what its
 * lines mean. Structures and numbers are those of nvml.h as nvidia-ml-py calls it.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef void *handle;

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
    NO_DATA = 21,
    UNKNOWN = 999,
};

#define NOT_TOLD (~0ULL)
#define NO_INSTANCE 0xffffffffU
#define XID_EVENT 8ULL
#define ECC_EVENTS 3ULL /* single-bit and double-bit */

#define DEVICES 16
#define LINES 256
#define PIDS 4096

struct memory { u64 total, free, used; };
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };
struct process { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; };
struct event { handle device; u64 type, data; unsigned gpu_instance, compute_instance; };
struct pci { char legacy_id[16]; unsigned domain, bus, device, device_id, subsystem_id; char id[32]; };

struct device {
    int id, error, events, utilization, major, minor;
    char uuid[96], name[96];
    u64 total, used;
    long long ecc; /* -1: this card has none */
};
struct rule { int device; unsigned pid; char name[128], text[256]; u64 bytes; };
struct xid { u64 serial, number; int device; };
struct refusal { int device; char call[64]; int code; };

struct world {
    int init, hang, loads, devices, rules, xids, refusals, cuda;
    char driver[80];
    struct device device[DEVICES];
    struct rule rule[LINES];
    struct xid xid[LINES];
    struct refusal refusal[LINES];
};

/* --- the file ---------------------------------------------------------------------------------------------------- */

static int misread(int number, const char *line)
{
    fprintf(stderr, "NVML stand-in: %s:%d cannot be read: %s\n", getenv("NVML_STANDIN"), number, line);
    return UNKNOWN;
}

/* A line that belongs to the device above it: whether it was one. */
static int read_device_line(struct device *d, const char *line)
{
    return sscanf(line, "uuid %95s", d->uuid) == 1 || sscanf(line, "name %95[^\n]", d->name) == 1
        || sscanf(line, "total %llu", &d->total) == 1 || sscanf(line, "used %llu", &d->used) == 1
        || sscanf(line, "utilization %d", &d->utilization) == 1 || sscanf(line, "ecc %lld", &d->ecc) == 1
        || sscanf(line, "capability %d.%d", &d->major, &d->minor) == 2 || sscanf(line, "events %d", &d->events) == 1
        || sscanf(line, "error %d", &d->error) == 1;
}

static int read_rule(struct rule *r, const char *line)
{
    char bytes[32];
    int env = sscanf(line, "process-env %d %127[^= ]=%255s %31s", &r->device, r->name, r->text, bytes) == 4;
    if (!env && sscanf(line, "process %d %u %31s", &r->device, &r->pid, bytes) != 3)
        return 0;
    r->bytes = strcmp(bytes, "?") ? strtoull(bytes, NULL, 10) : NOT_TOLD;
    return 1;
}

static int read_line(struct world *w, char *line)
{
    struct device *d = &w->device[w->devices];
    struct rule *r = &w->rule[w->rules];
    struct xid *x = &w->xid[w->xids];
    struct refusal *f = &w->refusal[w->refusals];
    if (sscanf(line, "device %d", &d->id) == 1) {
        d->events = 1;
        d->ecc = -1;
        return ++w->devices < DEVICES;
    }
    if (read_rule(r, line))
        return ++w->rules < LINES;
    if (sscanf(line, "xid %llu %d %llu", &x->serial, &x->device, &x->number) == 3)
        return ++w->xids < LINES;
    if (sscanf(line, "refuse %d %63s %d", &f->device, f->call, &f->code) == 3)
        return ++w->refusals < LINES;
    if (sscanf(line, "init %d", &w->init) == 1 || sscanf(line, "hang %d", &w->hang) == 1
        || sscanf(line, "loads %d", &w->loads) == 1 || sscanf(line, "cuda %d", &w->cuda) == 1
        || sscanf(line, "driver %79s", w->driver) == 1)
        return 1;
    return w->devices > 0 && read_device_line(d - 1, line);
}

static int read_file(struct world *w)
{
    const char *path = getenv("NVML_STANDIN");
    FILE *file = path ? fopen(path, "re") : NULL;
    char line[512];
    int number = 0, bad = OK;
    memset(w, 0, sizeof *w);
    if (!file)
        return DRIVER_NOT_LOADED;
    while (bad == OK && fgets(line, sizeof line, file)) {
        number++;
        line[strcspn(line, "\n")] = 0;
        if (*line && *line != '#' && !read_line(w, line))
            bad = misread(number, line);
    }
    fclose(file);
    return bad ? bad : w->init;
}

static int read_world(struct world *w)
{
    int bad = read_file(w);
    while (w->hang) {
        nanosleep(&(struct timespec){0, 10 * 1000000L}, NULL);
        bad = read_file(w);
    }
    return bad;
}

/* --- connecting, and finding a device ---------------------------------------------------------------------------- */

#define SETS 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int connections, connected_to; /* the driver as it was loaded then: another one wants a new connection */
static struct event_set { int open; u64 seen, registered; } sets[SETS];

static int refused(const struct world *w, int device, const char *call)
{
    for (int i = 0; i < w->refusals; i++)
        if (w->refusal[i].device == device && !strcmp(w->refusal[i].call, call))
            return w->refusal[i].code;
    return OK;
}

static int enter(struct world *w, const char *call)
{
    pthread_mutex_lock(&lock);
    int connected = connections > 0, loaded = connected_to;
    pthread_mutex_unlock(&lock);
    if (!connected)
        return UNINITIALIZED;
    int bad = read_world(w);
    if (bad)
        return bad;
    return w->loads == loaded ? refused(w, -1, call) : DRIVER_NOT_LOADED;
}

static handle handle_of(const struct device *d) { return (handle)(uintptr_t)(d->id + 1); }

static int answer(const struct world *w, const struct device *d, const char *call)
{
    return d->error ? d->error : refused(w, d->id, call);
}

static int enter_device(struct world *w, handle h, const char *call, struct device **found)
{
    int bad = enter(w, call);
    if (bad)
        return bad;
    for (int i = 0; i < w->devices; i++)
        if (handle_of(&w->device[i]) == h) {
            *found = &w->device[i];
            return answer(w, *found, call);
        }
    return h ? GPU_IS_LOST : INVALID_ARGUMENT; /* it was there when the handle was given out */
}

#define ENTER                                                                                                          \
    struct world w;                                                                                                    \
    int bad = enter(&w, __func__);                                                                                     \
    if (bad)                                                                                                           \
        return bad
#define ENTER_DEVICE                                                                                                   \
    struct world w;                                                                                                    \
    struct device *d;                                                                                                  \
    int bad = enter_device(&w, h, __func__, &d);                                                                       \
    if (bad)                                                                                                           \
        return bad

static int give_text(char *to, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return OK;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    struct world w;
    int bad = read_world(&w);
    if (bad)
        return bad;
    pthread_mutex_lock(&lock);
    if (!connections) {
        connected_to = w.loads;
        memset(sets, 0, sizeof sets);
    }
    int same = w.loads == connected_to;
    connections += same;
    pthread_mutex_unlock(&lock);
    return same ? OK : DRIVER_NOT_LOADED;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    int connected = connections > 0;
    connections -= connected;
    pthread_mutex_unlock(&lock);
    return connected ? OK : UNINITIALIZED;
}

const char *nvmlErrorString(int code)
{
    static char text[48];
    snprintf(text, sizeof text, "NVML error %d", code);
    return text;
}

/* --- the system -------------------------------------------------------------------------------------------------- */

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    ENTER;
    return give_text(version, size, w.driver);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    ENTER;
    return give_text(version, size, w.driver);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    ENTER;
    *version = w.cuda;
    return OK;
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    ENTER;
    *version = w.cuda;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ENTER;
    *count = (unsigned)w.devices;
    return OK;
}

/* --- devices ----------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *h)
{
    ENTER;
    if (index >= (unsigned)w.devices)
        return INVALID_ARGUMENT;
    *h = handle_of(&w.device[index]);
    return answer(&w, &w.device[index], __func__);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, handle *h)
{
    ENTER;
    for (int i = 0; i < w.devices; i++)
        if (!strcmp(w.device[i].uuid, uuid)) {
            *h = handle_of(&w.device[i]);
            return answer(&w, &w.device[i], __func__);
        }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(handle h, unsigned *index)
{
    ENTER_DEVICE;
    *index = (unsigned)(d - w.device);
    return OK;
}

int nvmlDeviceGetUUID(handle h, char *uuid, unsigned size)
{
    ENTER_DEVICE;
    return give_text(uuid, size, d->uuid);
}

int nvmlDeviceGetName(handle h, char *name, unsigned size)
{
    ENTER_DEVICE;
    return give_text(name, size, d->name);
}

int nvmlDeviceGetCudaComputeCapability(handle h, int *major, int *minor)
{
    ENTER_DEVICE;
    *major = d->major;
    *minor = d->minor;
    return OK;
}

int nvmlDeviceGetUtilizationRates(handle h, struct utilization *rates)
{
    ENTER_DEVICE;
    *rates = (struct utilization){(unsigned)d->utilization, 0};
    return OK;
}

int nvmlDeviceGetPciInfo_v3(handle h, struct pci *info)
{
    ENTER_DEVICE;
    memset(info, 0, sizeof *info);
    info->bus = (unsigned)d->id + 1;
    snprintf(info->legacy_id, sizeof info->legacy_id, "0000:%02X:00.0", info->bus & 0xffU);
    snprintf(info->id, sizeof info->id, "00000000:%02X:00.0", info->bus & 0xffU);
    return OK;
}

/* --- processes and memory ---------------------------------------------------------------------------------------- */

/* Whether a process' environment has NAME with a value that contains the text. */
static int environ_has(unsigned pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/environ", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0; /* another user's, or gone */
    size_t size = 0, room = 1 << 16, known = strlen(name);
    char *all = malloc(room + 1);
    ssize_t got;
    while (all && (got = read(file, all + size, room - size)) > 0) {
        size += (size_t)got;
        if (size == room)
            all = realloc(all, (room *= 2) + 1);
    }
    close(file);
    if (!all)
        return 0;
    all[size] = 0;
    int has = 0;
    for (char *entry = all; !has && entry < all + size; entry += strlen(entry) + 1)
        has = !strncmp(entry, name, known) && entry[known] == '=' && strstr(entry + known + 1, text) != NULL;
    free(all);
    return has;
}

static unsigned add_matching(const struct rule *r, struct process *found, unsigned count)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && count < PIDS && (entry = readdir(proc))) {
        unsigned pid = isdigit((unsigned char)*entry->d_name) ? (unsigned)strtoul(entry->d_name, NULL, 10) : 0;
        if (pid && environ_has(pid, r->name, r->text))
            found[count++] = (struct process){pid, r->bytes, NO_INSTANCE, NO_INSTANCE};
    }
    if (proc)
        closedir(proc);
    return count;
}

static unsigned processes_on(const struct world *w, const struct device *d, struct process *found)
{
    unsigned count = 0;
    for (int i = 0; i < w->rules && count < PIDS; i++) {
        const struct rule *r = &w->rule[i];
        if (r->device != d->id)
            continue;
        if (*r->name)
            count = add_matching(r, found, count);
        else
            found[count++] = (struct process){r->pid, r->bytes, NO_INSTANCE, NO_INSTANCE};
    }
    return count;
}

static u64 used_on(const struct world *w, const struct device *d)
{
    static __thread struct process found[PIDS];
    u64 used = d->used;
    for (unsigned i = 0, count = processes_on(w, d, found); i < count; i++)
        used += found[i].used == NOT_TOLD ? 0 : found[i].used;
    return used < d->total ? used : d->total;
}

static int give_processes(const struct world *w, const struct device *d, unsigned *count, struct process *to)
{
    static __thread struct process found[PIDS];
    unsigned room = *count, there = processes_on(w, d, found);
    *count = there;
    if (!to || room < there)
        return there ? INSUFFICIENT_SIZE : OK;
    memcpy(to, found, there * sizeof *found);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(handle h, unsigned *count, struct process *to)
{
    ENTER_DEVICE;
    return give_processes(&w, d, count, to);
}

int nvmlDeviceGetComputeRunningProcesses_v2(handle h, unsigned *count, struct process *to)
{
    ENTER_DEVICE;
    return give_processes(&w, d, count, to);
}

int nvmlDeviceGetMemoryInfo(handle h, struct memory *memory)
{
    ENTER_DEVICE;
    u64 used = used_on(&w, d);
    *memory = (struct memory){d->total, d->total - used, used};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(handle h, struct memory_v2 *memory)
{
    ENTER_DEVICE;
    u64 used = used_on(&w, d);
    *memory = (struct memory_v2){memory->version, d->total, 0, d->total - used, used};
    return OK;
}

/* --- errors and events ------------------------------------------------------------------------------------------- */

int nvmlDeviceGetEccMode(handle h, unsigned *current, unsigned *pending)
{
    ENTER_DEVICE;
    *current = *pending = d->ecc >= 0;
    return d->ecc < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetTotalEccErrors(handle h, unsigned type, unsigned counter, u64 *count)
{
    (void)counter;
    ENTER_DEVICE;
    *count = type == 1 && d->ecc > 0 ? (u64)d->ecc : 0;
    return d->ecc < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetMemoryErrorCounter(handle h, unsigned type, unsigned counter, unsigned location, u64 *count)
{
    (void)counter, (void)location;
    ENTER_DEVICE;
    *count = type == 1 && d->ecc > 0 ? (u64)d->ecc : 0;
    return d->ecc < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetSupportedEventTypes(handle h, u64 *types)
{
    ENTER_DEVICE;
    *types = d->events ? XID_EVENT | (d->ecc < 0 ? 0 : ECC_EVENTS) : 0;
    return OK;
}

static u64 last_serial(const struct world *w)
{
    u64 last = 0;
    for (int i = 0; i < w->xids; i++)
        last = w->xid[i].serial > last ? w->xid[i].serial : last;
    return last;
}

static struct event_set *set_of(handle h)
{
    uintptr_t number = (uintptr_t)h;
    return number && number <= SETS && sets[number - 1].open ? &sets[number - 1] : NULL;
}

int nvmlEventSetCreate(handle *h)
{
    ENTER;
    int free_set = -1;
    pthread_mutex_lock(&lock);
    for (int i = SETS - 1; i >= 0; i--)
        free_set = sets[i].open ? free_set : i;
    if (free_set >= 0)
        sets[free_set] = (struct event_set){1, last_serial(&w), 0}; /* what was before is not told */
    pthread_mutex_unlock(&lock);
    *h = (handle)(uintptr_t)(free_set + 1);
    return free_set < 0 ? UNKNOWN : OK;
}

int nvmlDeviceRegisterEvents(handle h, u64 types, handle set)
{
    ENTER_DEVICE;
    if (!d->events || types & ~(XID_EVENT | (d->ecc < 0 ? 0 : ECC_EVENTS)))
        return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    struct event_set *s = set_of(set);
    if (s && types & XID_EVENT)
        s->registered |= 1ULL << d->id;
    pthread_mutex_unlock(&lock);
    return s ? OK : INVALID_ARGUMENT;
}

static int has_lost(const struct event_set *s, const struct world *w)
{
    for (int i = 0; i < w->devices; i++)
        if (w->device[i].error && s->registered >> w->device[i].id & 1)
            return 1;
    return 0;
}

static int take(struct event_set *s, const struct world *w, struct event *event)
{
    const struct xid *next = NULL;
    for (int i = 0; i < w->xids; i++) {
        const struct xid *x = &w->xid[i];
        if (x->serial > s->seen && s->registered >> x->device & 1 && (!next || x->serial < next->serial))
            next = x;
    }
    if (!next)
        return has_lost(s, w) ? GPU_IS_LOST : TIMEOUT;
    s->seen = next->serial;
    *event = (struct event){(handle)(uintptr_t)(next->device + 1), XID_EVENT, next->number, NO_INSTANCE, NO_INSTANCE};
    return OK;
}

int nvmlEventSetWait_v2(handle set, struct event *event, unsigned timeout_ms)
{
    for (;;) {
        ENTER;
        pthread_mutex_lock(&lock);
        struct event_set *s = set_of(set);
        int rc = s ? take(s, &w, event) : INVALID_ARGUMENT;
        pthread_mutex_unlock(&lock);
        if (rc != TIMEOUT || !timeout_ms)
            return rc;
        unsigned wait_ms = timeout_ms < 10 ? timeout_ms : 10;
        timeout_ms -= wait_ms;
        nanosleep(&(struct timespec){0, wait_ms * 1000000L}, NULL);
    }
}

int nvmlEventSetFree(handle set)
{
    pthread_mutex_lock(&lock);
    struct event_set *s = set_of(set);
    if (s)
        s->open = 0;
    pthread_mutex_unlock(&lock);
    return s ? OK : INVALID_ARGUMENT;
}

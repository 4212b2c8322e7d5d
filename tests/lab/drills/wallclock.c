/* A wall clock that somebody sets while programs run, for LD_PRELOAD: the file $WALLCLOCK holds, as eight bytes, how many
 * seconds the time is off. What the kernel has for the time is the machine's own affair and no namespace's, so a drill
 * cannot set that. The file is mapped: a change is seen at the next look at the clock, and looking takes no lock. Only
 * the wall clock is off, as after a real clock was set: the monotonic one never jumps.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const _Atomic long right = 0;
static const _Atomic long *off = &right;

__attribute__((constructor)) static void find(void)
{
    const char *path = getenv("WALLCLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        off = mapped;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *off;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed)
        now->tv_sec += *off;
    return failed;
}

time_t time(time_t *kept)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept)
        *kept = now.tv_sec;
    return now.tv_sec;
}

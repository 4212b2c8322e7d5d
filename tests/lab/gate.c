/* A gate before what an engine streams, for LD_PRELOAD: while the file GATE is there, no answer gets further than its
 * first PASS events. So what a drill does while a stream runs is done before its end, however fast the machine is and
 * however late the drill. The engine itself computes on, and answers everything else: nobody takes it for hung.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 4096

static _Atomic int events[MOST];

static int begins(const char *data, size_t size, const char *with)
{
    return size >= strlen(with) && memcmp(data, with, strlen(with)) == 0;
}

/* One event is one chunk, and one chunk is written at once: its length in hexadecimal digits, a line break, its text. */
static int is_event(const char *data, size_t size)
{
    const char *text = memchr(data, '\n', size < 16 ? size : 16);
    return text && begins(text + 1, size - (size_t)(text + 1 - data), "data: ");
}

ssize_t send(int file, const void *data, size_t size, int flags)
{
    if (file >= 0 && file < MOST) {
        if (begins(data, size, "HTTP/"))
            events[file] = 0;
        else if (is_event(data, size) && ++events[file] > PASS)
            while (access(GATE, F_OK) == 0 && poll(&(struct pollfd){.fd = file, .events = POLLRDHUP}, 1, 2) == 0)
                ; /* nobody is waited for whose reader has gone */
    }
    return syscall(SYS_sendto, file, data, size, flags, NULL, 0);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * LD_PRELOAD shim that puts faults under a program's pread and pwrite: a call that touches a chosen
 * byte range is held back, or a write to it is answered with success and thrown away.
 *
 * The orders lie in a file that is mapped by this program and by the test, so that a test can hold
 * a write, see that it is held, and let it go, without guessing at times. Only descriptors of the
 * file named by FAULT_BACKING are looked at.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The same layout as FIELDS in slow_pwrite.py: nine 64-bit words of the machine's byte order. */
struct orders {
    _Atomic uint64_t start, end;     /* the byte range, end exclusive */
    _Atomic uint64_t hold;           /* 1: writes, 2: reads, 3: both wait while this is set */
    _Atomic uint64_t delay;          /* milliseconds that a call waits in any case */
    _Atomic uint64_t drop;           /* that many writes are thrown away ... */
    _Atomic uint64_t skip;           /* ... after that many were let through */
    _Atomic uint64_t held;           /* calls that began to wait */
    _Atomic uint64_t passed;         /* calls that are done: let through after a wait, or dropped */
    _Atomic uint64_t only;           /* when set, calls wait only while fewer than that have */
};

static struct orders *orders;
static dev_t device;
static ino_t inode;

__attribute__((constructor)) static void map_orders(void)
{
    const char *control = getenv("FAULT_ORDERS"), *backing = getenv("FAULT_BACKING");
    struct stat status;
    if (!control || !backing || stat(backing, &status) != 0)
        return;
    int descriptor = open(control, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return;
    void *memory = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (memory == MAP_FAILED)
        return;
    device = status.st_dev;
    inode = status.st_ino;
    orders = memory;
}

static int chosen(int descriptor, size_t count, off64_t offset)
{
    struct stat status;
    if (!orders || (uint64_t)offset >= orders->end || offset + count <= orders->start)
        return 0;
    return fstat(descriptor, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

static void wait_if_told(uint64_t kind)
{
    const struct timespec tick = {0, 1000000};
    uint64_t ticks = orders->delay;
    if (ticks == 0 && !(orders->hold & kind))
        return;
    if (orders->only != 0 && orders->held >= orders->only)
        return;
    orders->held++;
    while (ticks > 0 || (orders->hold & kind)) {
        nanosleep(&tick, NULL);
        if (ticks > 0)
            ticks--;
    }
}

static int thrown_away(void)
{
    if (orders->drop == 0)
        return 0;
    if (orders->skip > 0) {
        orders->skip--;
        return 0;
    }
    orders->drop--;
    return 1;
}

ssize_t pwrite64(int descriptor, const void *buffer, size_t count, off64_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next)
        next = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (!chosen(descriptor, count, offset))
        return next(descriptor, buffer, count, offset);
    wait_if_told(1);
    ssize_t done = thrown_away() ? (ssize_t)count : next(descriptor, buffer, count, offset);
    orders->passed++;
    return done;
}

ssize_t pread64(int descriptor, void *buffer, size_t count, off64_t offset)
{
    static ssize_t (*next)(int, void *, size_t, off64_t);
    if (!next)
        next = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    if (!chosen(descriptor, count, offset))
        return next(descriptor, buffer, count, offset);
    wait_if_told(2);
    ssize_t done = next(descriptor, buffer, count, offset);
    orders->passed++;
    return done;
}

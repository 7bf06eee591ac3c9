/* SPDX-License-Identifier: Apache-2.0
 *
 * LD_PRELOAD shim that lets User Mode Linux run on processors with AMX.
 *
 * It keeps the floating point state of its processes in 2696 bytes, all there was before AMX. A
 * host kernel takes the whole area or nothing (EFAULT), so the guest's first process would die.
 * What is too short is laid over the process's present state, which is written back whole. The
 * state of AMX itself is then not switched; nothing in the guest uses it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

static char area[1 << 16] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(int, pid_t, void *, void *);
    va_list arguments;
    va_start(arguments, request);
    pid_t process = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        next = (long (*)(int, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        struct iovec *given = data, whole = {area, sizeof area};
        if (next(PTRACE_GETREGSET, process, address, &whole) == 0 &&
            whole.iov_len > given->iov_len) {
            memcpy(area, given->iov_base, given->iov_len);
            return next(request, process, address, &whole);
        }
    }
    return next(request, process, address, data);
}

/*
 * Shows a process faults that only its machine has. LD_PRELOAD loads it.
 *
 * Input: the file that FAULT_SHIM names: four signed 64-bit numbers in the byte order of the machine.
 * Output: a wall clock that is off by the first number, in seconds; and while the third is not zero,
 * every start of a thread fails with it as the error. The second counts reads of the wall clock, the
 * fourth starts of threads that were refused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t offset;
    int64_t clock_reads;
    int64_t thread_error;
    int64_t refused_threads;
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULT_SHIM");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED)
        control = memory;
}

static int64_t offset(void) {
    if (!control)
        return 0;
    __atomic_fetch_add(&control->clock_reads, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&control->offset, __ATOMIC_RELAXED);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = (int)syscall(SYS_gettimeofday, now, zone);
    if (result == 0)
        now->tv_sec += offset();
    return result;
}

time_t time(time_t *now) {
    struct timespec read;
    clock_gettime(CLOCK_REALTIME, &read);
    if (now)
        *now = read.tv_sec;
    return read.tv_sec;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int64_t error = control ? __atomic_load_n(&control->thread_error, __ATOMIC_RELAXED) : 0;
    if (error) {
        __atomic_fetch_add(&control->refused_threads, 1, __ATOMIC_RELAXED);
        return (int)error;
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attributes, start, argument);
}

/* A wrong wall clock for a program that is started with LD_PRELOAD. The wall clock is off by a number of seconds, and
   gains a fraction of a second per second. Clocks that only count up are not changed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*true_gettime)(clockid_t, struct timespec *);
static double off, gain;
static struct timespec start;

__attribute__((constructor)) static void read_orders(void) {
    const char *text = getenv("FAULTS_WALL_CLOCK_OFF");
    true_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    off = text ? atof(text) : 0;
    text = getenv("FAULTS_WALL_CLOCK_GAIN");
    gain = text ? atof(text) : 0;
    true_gettime(CLOCK_MONOTONIC, &start);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    struct timespec now;
    int failed;
    if (!true_gettime) read_orders();
    failed = true_gettime(id, at);
    if (failed || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return failed;
    true_gettime(CLOCK_MONOTONIC, &now);
    double more = off + gain * ((now.tv_sec - start.tv_sec) + (now.tv_nsec - start.tv_nsec) / 1e9);
    long long nanos = at->tv_sec * 1000000000LL + at->tv_nsec + (long long)(more * 1e9);
    at->tv_sec = nanos / 1000000000LL;
    at->tv_nsec = nanos % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

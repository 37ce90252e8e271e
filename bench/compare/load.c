/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client of the comparison. One mode a run, one target, pinned to one CPU.
 *
 *   load connect  CPU COUNT ADDRESS PORT        new TCP connections, one byte each way
 *   load pace     CPU COUNT ADDRESS PORT RATE   the same, RATE a second whatever happens:
 *                                               each is timed from when it was due
 *   load resolve  CPU COUNT ADDRESS PORT        new UDP sockets, 40 bytes and 120 back
 *   load converse CPU COUNT ADDRESS PORT        one TCP connection, one byte each way
 *   load bulk     CPU MS    ADDRESS PORT        one TCP connection, as much as goes
 *   load until    CPU COUNT ADDRESS PORT BYTE   `connect` until the answer is BYTE,
 *                                               0.2 ms between two
 *
 * Prints one line of JSON: done and failed (exchanges), took_ns, p50_ns, p99_ns; `bulk`:
 * bytes and took_ns; `until`: also answered_ns, CLOCK_MONOTONIC, 0 if it never was.
 * An exchange without an answer for a second has failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define QUERY_BYTES 40
#define ANSWER_BYTES 120
#define BULK_BYTES (128 * 1024)
#define BETWEEN_TRIES_NS 200000

static struct sockaddr_storage target;
static socklen_t target_size;

static long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void wait_for(long due)
{
	struct timespec t = { .tv_sec = due / 1000000000L, .tv_nsec = due % 1000000000L };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
}

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

static void find_target(const char *address, int port)
{
	struct sockaddr_in *v4 = (void *)&target;
	struct sockaddr_in6 *v6 = (void *)&target;

	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		target_size = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		target_size = sizeof(*v6);
	} else {
		errx(2, "not an address: %s", address);
	}
}

/* A connected socket, or -1. SYNs that are dropped fail after a second as well. */
static int dial(int type)
{
	struct timeval second = { .tv_sec = 1 };
	struct linger reset = { .l_onoff = 1 }; /* no TIME_WAIT: ports do not run out */
	int fd = socket(target.ss_family, type, 0), one = 1;

	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	if (type == SOCK_STREAM) {
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	if (!connect(fd, (void *)&target, target_size))
		return fd;
	close(fd);
	return -1;
}

/* The first byte of the answer, or -1. */
static int exchange(int fd, size_t bytes)
{
	unsigned char data[ANSWER_BYTES] = { 'q' };

	if (send(fd, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
		return -1;
	return recv(fd, data, sizeof(data), 0) > 0 ? data[0] : -1;
}

static int once(int type, size_t bytes)
{
	int fd = dial(type), answer = -1;

	if (fd >= 0) {
		answer = exchange(fd, bytes);
		close(fd);
	}
	return answer;
}

static void bulk(long ms)
{
	static char data[BULK_BYTES];
	long sent = 0, started, ends;
	int fd = dial(SOCK_STREAM);

	if (fd < 0)
		err(1, "connect");
	started = now_ns();
	ends = started + ms * 1000000;
	while (now_ns() < ends) {
		ssize_t now = send(fd, data, sizeof(data), MSG_NOSIGNAL);

		if (now < 0)
			err(1, "send");
		sent += now;
	}
	printf("{\"bytes\": %ld, \"took_ns\": %ld}\n", sent, now_ns() - started);
}

int main(int argc, char **argv)
{
	long count, *took, started, answered = 0, done = 0, failed = 0, interval = 0;
	int type = SOCK_STREAM, talking = -1, awaited = -1;
	size_t bytes = 1;
	cpu_set_t cpu;

	if (argc < 6)
		errx(2, "usage: load MODE CPU COUNT ADDRESS PORT [RATE|BYTE]");
	count = atol(argv[3]);
	find_target(argv[4], atoi(argv[5]));
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[2]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "sched_setaffinity");
	if (!strcmp(argv[1], "bulk")) {
		bulk(count);
		return 0;
	}
	if (!strcmp(argv[1], "resolve")) {
		type = SOCK_DGRAM;
		bytes = QUERY_BYTES;
	} else if (!strcmp(argv[1], "converse")) {
		talking = dial(SOCK_STREAM);
		if (talking < 0)
			err(1, "connect");
	} else if (!strcmp(argv[1], "pace") && argc == 7) {
		interval = 1000000000L / atol(argv[6]);
	} else if (!strcmp(argv[1], "until") && argc == 7) {
		awaited = argv[6][0];
	} else if (strcmp(argv[1], "connect")) {
		errx(2, "unknown mode: %s", argv[1]);
	}

	took = calloc(count, sizeof(*took));
	started = now_ns();
	for (long n = 0; n < count && !answered; n++) {
		long from = now_ns();
		int answer;

		if (interval) {
			from = started + n * interval;
			if (now_ns() < from)
				wait_for(from);
		}
		answer = talking >= 0 ? exchange(talking, bytes) : once(type, bytes);
		if (answer < 0)
			failed++;
		else
			took[done++] = now_ns() - from;
		if (awaited >= 0 && answer == awaited)
			answered = now_ns();
		else if (awaited >= 0)
			wait_for(now_ns() + BETWEEN_TRIES_NS); /* leave the CPU to who programs */
	}
	started = now_ns() - started;
	qsort(took, done, sizeof(*took), ascending);
	printf("{\"done\": %ld, \"failed\": %ld, \"took_ns\": %ld, \"p50_ns\": %ld, \"p99_ns\": %ld, "
	       "\"answered_ns\": %ld}\n",
	       done, failed, started, done ? took[done / 2] : 0, done ? took[done * 99 / 100] : 0,
	       answered);
	return 0;
}

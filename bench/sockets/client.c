/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark's client: one connection, or one datagram, and one byte each way, again
 * and again, taking the targets in turn so that whatever disturbs the machine disturbs
 * all of them.
 *
 *   client tcp|connect|udp CPU COUNT ADDRESS PORT [ADDRESS PORT]...
 *
 * `connect` leaves the exchange out and `udp` polls, so that the CPU never goes to sleep
 * in between and what is measured is warm.
 *
 * Prints one line per target: p50 and p99 in nanoseconds. COUNT is per target.
 * IPv4 only: the datapath treats both families alike, the stack does not.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_TARGETS 4

static long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

static void exchange_tcp(const struct sockaddr_in *target, int connect_only)
{
	/* reset on close: no TIME_WAIT, so ports do not run out */
	struct linger reset = { .l_onoff = 1 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char byte = 'x';

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)))
		err(1, "socket");
	if (connect(fd, (const void *)target, sizeof(*target)))
		err(1, "connect");
	if (!connect_only && (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1))
		err(1, "exchange");
	close(fd);
}

static void exchange_udp(int fd, const struct sockaddr_in *target)
{
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	char byte = 'x';

	if (sendto(fd, &byte, 1, 0, (const void *)target, sizeof(*target)) != 1)
		err(1, "sendto");
	for (long start = now_ns(); recvfrom(fd, &byte, 1, MSG_DONTWAIT, (void *)&from, &size) != 1;)
		if (errno != EAGAIN || now_ns() - start > 1000000000L)
			err(1, "recvfrom");
	if (from.sin_addr.s_addr != target->sin_addr.s_addr || from.sin_port != target->sin_port)
		errx(1, "the answer shows %s:%d", inet_ntoa(from.sin_addr), ntohs(from.sin_port));
}

int main(int argc, char **argv)
{
	struct sockaddr_in targets[MAX_TARGETS] = {};
	long *took[MAX_TARGETS];
	int count, target_count, is_udp, connect_only, datagrams;
	cpu_set_t cpu;

	if (argc < 6 || argc % 2 || (argc - 4) / 2 > MAX_TARGETS)
		errx(2, "usage: client tcp|connect|udp CPU COUNT ADDRESS PORT [ADDRESS PORT]...");
	is_udp = !strcmp(argv[1], "udp");
	connect_only = !strcmp(argv[1], "connect");
	count = atoi(argv[3]);
	target_count = (argc - 4) / 2;
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[2]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "sched_setaffinity");
	for (int i = 0; i < target_count; i++) {
		targets[i].sin_family = AF_INET;
		targets[i].sin_port = htons(atoi(argv[5 + 2 * i]));
		if (inet_pton(AF_INET, argv[4 + 2 * i], &targets[i].sin_addr) != 1)
			errx(2, "not an IPv4 address: %s", argv[4 + 2 * i]);
		took[i] = calloc(count, sizeof(long));
	}
	datagrams = socket(AF_INET, SOCK_DGRAM, 0);
	for (int n = 0; n < count; n++) {
		for (int i = 0; i < target_count; i++) {
			long start = now_ns();

			if (is_udp)
				exchange_udp(datagrams, &targets[i]);
			else
				exchange_tcp(&targets[i], connect_only);
			took[i][n] = now_ns() - start;
		}
	}
	for (int i = 0; i < target_count; i++) {
		qsort(took[i], count, sizeof(long), ascending);
		printf("%ld %ld\n", took[i][count / 2], took[i][count * 99L / 100]);
	}
	return 0;
}

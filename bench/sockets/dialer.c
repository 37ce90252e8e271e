/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open loop of connections to random VIPs: so many a second, whatever becomes of them.
 *
 *   dialer CPU PER_SECOND BASE COUNT PORT      BASE: the first VIP; VIPs are consecutive
 *
 * Each connection is one non-blocking connect(2), which on loopback has succeeded or
 * failed when poll(2) says so. Prints "opened N failed N late_max_us N last_errno N"
 * when its input closes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* 0, or the errno the application would see. */
static int dial(const struct sockaddr_in *target)
{
	struct linger reset = { .l_onoff = 1 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
	socklen_t size = sizeof(error);
	struct pollfd wait = { .fd = fd, .events = POLLOUT };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (connect(fd, (const void *)target, sizeof(*target)) && errno != EINPROGRESS)
		error = errno;
	else if (poll(&wait, 1, 1000) != 1)
		error = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	close(fd);
	return error;
}

int main(int argc, char **argv)
{
	struct sockaddr_in target = { .sin_family = AF_INET };
	struct pollfd input = { .fd = 0, .events = POLLIN };
	long opened = 0, failed = 0, late_max = 0, interval, next;
	unsigned int base, count, seed = 1;
	int last_errno = 0;
	cpu_set_t cpu;

	if (argc != 6)
		errx(2, "usage: dialer CPU PER_SECOND BASE COUNT PORT");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[1]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "sched_setaffinity");
	interval = 1000000000L / atol(argv[2]);
	base = ntohl(inet_addr(argv[3]));
	count = atoi(argv[4]);
	target.sin_port = htons(atoi(argv[5]));
	puts("dialling");
	fflush(stdout);
	next = now_ns();
	while (opened % 64 || !poll(&input, 1, 0)) {
		long late = now_ns() - next;
		int error;

		if (late < 0) {
			struct timespec pause = { .tv_nsec = -late };

			nanosleep(&pause, NULL);
		} else if (late > late_max) {
			late_max = late;
		}
		next += interval;
		target.sin_addr.s_addr = htonl(base + rand_r(&seed) % count);
		error = dial(&target);
		opened++;
		if (error) {
			failed++;
			last_errno = error;
		}
	}
	printf("opened %ld failed %ld late_max_us %ld last_errno %d\n", opened, failed,
	       late_max / 1000, last_errno);
	return 0;
}

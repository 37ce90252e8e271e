/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark's server: sends back the first byte, over TCP and UDP on one port.
 *
 *   server CPU PORT ADDRESS...
 *
 * Prints a line once it listens. Ends with its parent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_at(const char *address, int port, int type)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, type, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (inet_pton(AF_INET, address, &at.sin_addr) != 1)
		errx(2, "not an IPv4 address: %s", address);
	if (bind(fd, (void *)&at, sizeof(at)))
		err(1, "bind %s:%d", address, port);
	if (type == SOCK_STREAM && listen(fd, 4096))
		err(1, "listen");
	return fd;
}

static void answer_connection(int listener)
{
	int fd = accept(listener, NULL, NULL);
	char byte;

	if (fd < 0)
		return;
	if (recv(fd, &byte, 1, 0) == 1)
		send(fd, &byte, 1, MSG_NOSIGNAL);
	close(fd);
}

static void answer_datagram(int fd)
{
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	char byte;

	if (recvfrom(fd, &byte, 1, 0, (void *)&from, &size) == 1)
		sendto(fd, &byte, 1, 0, (void *)&from, size);
}

int main(int argc, char **argv)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0);
	cpu_set_t cpu;

	if (argc < 4)
		errx(2, "usage: server CPU PORT ADDRESS...");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[1]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "sched_setaffinity");
	for (int i = 3; i < argc; i++) {
		for (int is_udp = 0; is_udp < 2; is_udp++) {
			int fd = open_at(argv[i], atoi(argv[2]), is_udp ? SOCK_DGRAM : SOCK_STREAM);

			event.data.u64 = (unsigned long)fd << 1 | is_udp;
			if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
				err(1, "epoll_ctl");
		}
	}
	puts("listening");
	fflush(stdout);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.u64 & 1)
			answer_datagram(event.data.u64 >> 1);
		else
			answer_connection(event.data.u64 >> 1);
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server of the comparison: answers one byte over TCP and 120 over UDP, with BYTE
 * first, and swallows what comes in bulk. IPv4 and IPv6.
 *
 *   answer CPU PORT BYTE
 *
 * Prints a line once it listens. Ends with its parent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES 120
#define QUESTION_BYTES 16 /* more than that at once is bulk */

static char answer[ANSWER_BYTES];

static int open_at(int port, int type)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int fd = socket(AF_INET6, type | SOCK_NONBLOCK, 0), one = 1, zero = 0;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (void *)&at, sizeof(at)))
		err(1, "bind port %d", port);
	if (type == SOCK_STREAM && listen(fd, 4096))
		err(1, "listen");
	return fd;
}

static void accept_from(int listener, int epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	event.data.fd = fd;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		err(1, "epoll_ctl");
}

static void answer_connection(int fd)
{
	static char data[256 * 1024];
	ssize_t got = recv(fd, data, sizeof(data), 0);

	if (got <= 0)
		close(fd);
	else if (got <= QUESTION_BYTES)
		send(fd, answer, 1, MSG_NOSIGNAL);
}

static void answer_datagram(int fd)
{
	struct sockaddr_in6 from;
	socklen_t size = sizeof(from);
	char data[512];

	if (recvfrom(fd, data, sizeof(data), 0, (void *)&from, &size) > 0)
		sendto(fd, answer, sizeof(answer), 0, (void *)&from, size);
}

int main(int argc, char **argv)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), listener, datagrams;
	cpu_set_t cpu;

	if (argc != 4)
		errx(2, "usage: answer CPU PORT BYTE");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&cpu);
	CPU_SET(atoi(argv[1]), &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		err(1, "sched_setaffinity");
	answer[0] = argv[3][0];
	listener = open_at(atoi(argv[2]), SOCK_STREAM);
	datagrams = open_at(atoi(argv[2]), SOCK_DGRAM);
	event.data.fd = listener;
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
	event.data.fd = datagrams;
	epoll_ctl(epoll, EPOLL_CTL_ADD, datagrams, &event);
	puts("listening");
	fflush(stdout);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.fd == listener)
			accept_from(listener, epoll);
		else if (event.data.fd == datagrams)
			answer_datagram(datagrams);
		else
			answer_connection(event.data.fd);
	}
}

/* A program whose ports are hard-coded. `semantics` prints what each call of bind and connect does, one a line: the lines must be
 * the same with and without styxy. Numbers of ports are never printed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static const char *name_of(int result) {
	return result >= 0 ? "ok" : strerrorname_np(errno);
}

static void say(const char *what, const char *result) {
	printf("%s: %s\n", what, result);
	fflush(stdout);
}

static struct sockaddr_in four(const char *address, int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, address, &a.sin_addr);
	return a;
}

static struct sockaddr_in6 six(const char *address, int port) {
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	inet_pton(AF_INET6, address, &a.sin6_addr);
	return a;
}

static int stream(int family) {
	return socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int bind4(int fd, const char *address, int port) {
	struct sockaddr_in a = four(address, port);
	return bind(fd, (void *)&a, sizeof a);
}

static int bind6(int fd, const char *address, int port) {
	struct sockaddr_in6 a = six(address, port);
	return bind(fd, (void *)&a, sizeof a);
}

static int connect4(int fd, const char *address, int port) {
	struct sockaddr_in a = four(address, port);
	return connect(fd, (void *)&a, sizeof a);
}

static int connect6(int fd, const char *address, int port) {
	struct sockaddr_in6 a = six(address, port);
	return connect(fd, (void *)&a, sizeof a);
}

static void set(int fd, int option) {
	int on = 1;
	setsockopt(fd, SOL_SOCKET, option, &on, sizeof on);
}

/* A server on this port of all addresses; it accepts nothing by itself. */
static int server(int port, int backlog) {
	int fd = stream(AF_INET6);
	set(fd, SO_REUSEADDR);
	if (bind6(fd, "::", port) < 0 || listen(fd, backlog) < 0)
		say("server", strerrorname_np(errno));
	return fd;
}

static int error_of(int fd) {
	int error = 0;
	socklen_t length = sizeof error;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	return error;
}

static const char *settled(int fd) {
	struct pollfd poller = {.fd = fd, .events = POLLOUT};
	if (poll(&poller, 1, 10000) != 1)
		return "nothing happens";
	int error = error_of(fd);
	return error ? strerrorname_np(error) : "ok";
}

static void handled(int signal) { (void)signal; }

static void handle(int signal, int flags) {
	struct sigaction action = {.sa_handler = handled, .sa_flags = flags};
	sigaction(signal, &action, NULL);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void binds(void) {
	int first = stream(AF_INET), second = stream(AF_INET);
	say("bind", name_of(bind4(first, "0.0.0.0", 14101)));
	say("bind the same", name_of(bind4(second, "0.0.0.0", 14101)));
	say("bind the same on one address", name_of(bind4(second, "127.0.0.1", 14101)));
	say("bind a second time", name_of(bind4(first, "0.0.0.0", 14102)));
	close(first);
	close(second);

	first = stream(AF_INET), second = stream(AF_INET);
	say("bind 127.0.0.1", name_of(bind4(first, "127.0.0.1", 14103)));
	say("bind 127.0.0.2", name_of(bind4(second, "127.0.0.2", 14103)));
	close(first);
	close(second);

	first = stream(AF_INET6), second = stream(AF_INET);
	int on = 1;
	setsockopt(first, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	say("bind IPv6 only", name_of(bind6(first, "::", 14104)));
	say("bind IPv4 beside it", name_of(bind4(second, "0.0.0.0", 14104)));
	close(first);
	close(second);

	first = stream(AF_INET6), second = stream(AF_INET);
	say("bind both", name_of(bind6(first, "::", 14105)));
	say("bind IPv4 again", name_of(bind4(second, "0.0.0.0", 14105)));
	close(first);
	close(second);

	first = stream(AF_INET), second = stream(AF_INET);
	set(first, SO_REUSEPORT);
	set(second, SO_REUSEPORT);
	set(first, SO_REUSEADDR);
	set(second, SO_REUSEADDR);
	bind4(first, "127.0.0.1", 14106);
	say("share by SO_REUSEPORT", name_of(bind4(second, "127.0.0.1", 14106)));
	say("listen on both", listen(first, 5) < 0 ? "first" : name_of(listen(second, 5)));
	close(first);
	close(second);

	first = stream(AF_INET);
	struct sockaddr_in a = four("127.0.0.1", 14107);
	say("any port", name_of(bind4(first, "127.0.0.1", 0)));
	close(first);
	first = stream(AF_INET);
	say("bind a bad pointer", name_of(bind(first, (void *)8, sizeof a)));
	say("bind too short", name_of(bind(first, (void *)&a, 8)));
	say("bind too long", name_of(bind(first, (void *)&a, 4096)));
	say("bind nothing", name_of(bind(999, (void *)&a, sizeof a)));
	say("bind a file", name_of(bind(0, (void *)&a, sizeof a)));
	say("bind another machine", name_of(bind4(first, "198.51.100.7", 14107)));
	struct sockaddr_in6 b = six("::1", 14107);
	say("bind another family", name_of(bind(first, (void *)&b, sizeof b)));
	close(first);

	/* The address in memory that cannot be written. */
	struct sockaddr_in *read_only =
	        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*read_only = four("127.0.0.1", 14108);
	mprotect(read_only, 4096, PROT_READ);
	first = stream(AF_INET);
	say("bind from constant memory", name_of(bind(first, (void *)read_only, sizeof a)));
	say("the memory is as it was", read_only->sin_port == htons(14108) ? "yes" : "no");
	close(first);
}

static void reaches(const char *what, int family, const char *address, int listener) {
	int fd = stream(family);
	int result = family == AF_INET ? connect4(fd, address, 14110) : connect6(fd, address, 14110);
	say(what, name_of(result));
	if (result == 0) {
		int accepted = accept(listener, NULL, NULL);
		char byte = 'x';
		if (write(fd, &byte, 1) != 1 || read(accepted, &byte, 1) != 1)
			say(what, "no byte");
		close(accepted);
	}
	close(fd);
}

static void *in_thread(void *listener) {
	reaches("connect in a thread", AF_INET, "127.0.0.1", *(int *)listener);
	return NULL;
}

static void connects(void) {
	int listener = server(14110, 16);
	reaches("connect 127.0.0.1", AF_INET, "127.0.0.1", listener);
	reaches("connect 127.1.2.3", AF_INET, "127.1.2.3", listener);
	reaches("connect 0.0.0.0", AF_INET, "0.0.0.0", listener);
	reaches("connect ::1", AF_INET6, "::1", listener);
	reaches("connect ::", AF_INET6, "::", listener);
	reaches("connect ::ffff:127.0.0.1", AF_INET6, "::ffff:127.0.0.1", listener);
	pthread_t thread;
	pthread_create(&thread, NULL, in_thread, &listener);
	pthread_join(thread, NULL);
	if (fork() == 0) {
		reaches("connect in a child", AF_INET, "127.0.0.1", listener);
		_exit(0);
	}
	wait(NULL);

	int fd = stream(AF_INET), accepted;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	int epoll = epoll_create1(EPOLL_CLOEXEC), other = dup(fd);
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
	/* Consumes what a new socket reports. */
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	epoll_wait(epoll, &event, 1, 0);
	int result = connect4(fd, "127.0.0.1", 14110);
	say("connect without waiting", name_of(result));
	say("epoll sees it", epoll_wait(epoll, &event, 1, 10000) == 1 ? "yes" : "no");
	say("and it is connected", settled(fd));
	accepted = accept(listener, NULL, NULL);
	say("through another descriptor", write(other, "x", 1) == 1 ? "yes" : "no");
	say("connect again", name_of(connect4(fd, "127.0.0.1", 14110)));
	say("connect once more", name_of(connect4(fd, "127.0.0.1", 14110)));
	close(fd);
	close(other);
	close(accepted);

	fd = stream(AF_INET);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	connect4(fd, "127.0.0.1", 14110);
	say("the flags stay", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 ? "yes" : "no");
	close(fd);
	close(accept(listener, NULL, NULL));
	fd = stream(AF_INET);
	say("connect to a dead port", name_of(connect4(fd, "127.0.0.1", 14111)));
	say("the flags stay", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 ? "no" : "yes");
	say("connect it elsewhere then", name_of(connect4(fd, "127.0.0.1", 14110)));
	close(fd);
	close(accept(listener, NULL, NULL));
	fd = stream(AF_INET6);
	say("connect to a dead port of ::1", name_of(connect6(fd, "::1", 14111)));
	close(fd);
	fd = stream(AF_INET);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	say("to a dead port without waiting", name_of(connect4(fd, "127.0.0.1", 14111)));
	say("and then", settled(fd));
	close(fd);

	fd = stream(AF_INET);
	struct sockaddr_in a = four("127.0.0.1", 14110);
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	say("connect too short", name_of(connect(fd, (void *)&a, 8)));
	say("connect a bad pointer", name_of(connect(fd, (void *)8, sizeof a)));
	say("connect nothing", name_of(connect(999, (void *)&a, sizeof a)));
	say("connect a file", name_of(connect(0, (void *)&a, sizeof a)));
	say("connect port 0", name_of(connect4(fd, "127.0.0.1", 0)));
	close(fd);
	fd = stream(AF_INET);
	connect4(fd, "127.0.0.1", 14110);
	say("dissolve", name_of(connect(fd, &none, sizeof none)));
	close(fd);
	close(accept(listener, NULL, NULL));
	fd = stream(AF_INET);
	bind4(fd, "127.0.0.1", 14112);
	say("from a bound port", name_of(connect4(fd, "127.0.0.1", 14110)));
	close(fd);
	close(accept(listener, NULL, NULL));
	fd = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	say("MPTCP", fd < 0 ? "none" : name_of(connect4(fd, "127.0.0.1", 14110)));
	close(fd);
	close(accept(listener, NULL, NULL));
	close(listener);
}

/* A server whose queue is full: whoever connects waits. */
static int full(int port, int *waiting) {
	int listener = server(port, 0);
	*waiting = stream(AF_INET);
	connect4(*waiting, "127.0.0.1", port);
	return listener;
}

static void waits(void) {
	int waiting, listener = full(14120, &waiting), fd = stream(AF_INET);
	struct itimerval soon = {.it_value = {.tv_usec = 300000}};
	handle(SIGALRM, 0);
	setitimer(ITIMER_REAL, &soon, NULL);
	double start = now();
	say("a signal interrupts a connection", name_of(connect4(fd, "127.0.0.1", 14120)));
	say("when it comes", now() - start < 60 ? "yes" : "no");
	close(fd);

	fd = stream(AF_INET);
	struct timeval limit = {.tv_usec = 300000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	say("a time limit ends the waiting", name_of(connect4(fd, "127.0.0.1", 14120)));
	close(fd);

	/* With SA_RESTART it goes on, and succeeds when the queue has room. */
	handle(SIGALRM, SA_RESTART);
	int accepts[2];
	if (pipe(accepts) == 0 && fork() == 0) {
		usleep(600000);
		close(waiting);
		for (int i = 0; i < 2; i++)
			accept(listener, NULL, NULL);
		char byte;
		close(accepts[1]);
		_exit(read(accepts[0], &byte, 1) == 0 ? 0 : 1);
	}
	fd = stream(AF_INET);
	setitimer(ITIMER_REAL, &soon, NULL);
	say("with SA_RESTART it goes on", name_of(connect4(fd, "127.0.0.1", 14120)));
	close(accepts[1]);
	wait(NULL);
	close(fd);
	close(listener);

	listener = full(14121, &waiting);
	pid_t child = fork();
	if (child == 0) {
		connect4(stream(AF_INET), "127.0.0.1", 14121);
		_exit(0);
	}
	usleep(300000);
	kill(child, SIGKILL);
	int status;
	waitpid(child, &status, 0);
	say("SIGKILL ends it", WIFSIGNALED(status) ? "yes" : "no");
	close(waiting);
	close(listener);
}

static void others(void) {
	/* Datagrams are left alone. */
	int first = socket(AF_INET, SOCK_DGRAM, 0), second = socket(AF_INET, SOCK_DGRAM, 0);
	say("bind UDP", name_of(bind4(first, "127.0.0.1", 14130)));
	struct sockaddr_in a;
	socklen_t length = sizeof a;
	getsockname(first, (void *)&a, &length);
	say("its port is what it was", ntohs(a.sin_port) == 14130 ? "yes" : "no");
	say("connect UDP", name_of(connect4(second, "127.0.0.1", 14130)));
	char byte = 'x';
	say("send", name_of(send(second, &byte, 1, 0)));
	say("receive", name_of(recv(first, &byte, 1, 0)));
	close(first);
	close(second);

	struct sockaddr_un here = {.sun_family = AF_UNIX, .sun_path = "\0styxy-test-target"};
	length = offsetof(struct sockaddr_un, sun_path) + 18;
	first = stream(AF_UNIX);
	say("bind a Unix socket", name_of(bind(first, (void *)&here, length)));
	listen(first, 1);
	second = stream(AF_UNIX);
	say("connect it", name_of(connect(second, (void *)&here, length)));
	struct ucred peer;
	socklen_t size = sizeof peer;
	getsockopt(second, SOL_SOCKET, SO_PEERCRED, &peer, &size);
	say("its peer is this process", peer.pid == getpid() ? "yes" : "no");
	close(first);
	close(second);
}

/* Calls of programs for i386, made by the interrupt. */
static long old(long number, long a, long b, long c) {
#ifdef __x86_64__
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
#else
	(void)number, (void)a, (void)b, (void)c;
	return 0;
#endif
}

static int i386(void) {
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct sockaddr_in *a = (void *)low;
	*a = four("127.0.0.1", 14171);
	int listener = stream(AF_INET);
	set(listener, SO_REUSEADDR);
	printf("bind %ld\n", old(361, listener, (long)a, sizeof *a));
	listen(listener, 5);
	int fd = stream(AF_INET);
	printf("connect %ld\n", old(362, fd, (long)a, sizeof *a));
	unsigned *arguments = (void *)(low + 256);
	arguments[0] = stream(AF_INET), arguments[1] = (unsigned)(long)a, arguments[2] = sizeof *a;
	printf("socketcall connect %ld\n", old(102, 3, (long)arguments, 0));
	return 0;
}

static int failures(void *counted) {
	int *counts = counted, bad = 0;
	for (int errno_ = 1; errno_ < 134; errno_++)
		if (counts[errno_]) {
			printf("%s: %d\n", strerrorname_np(errno_), counts[errno_]);
			bad = 1;
		}
	return bad;
}

/* Signals all the time, while binding and connecting. */
static int storm(int rounds) {
	int counts[134] = {0}, done = 0;
	handle(SIGALRM, SA_RESTART);
	handle(SIGUSR1, 0);
	int listener = server(14140, 4096);
	struct itimerval often = {.it_interval = {.tv_usec = 150}, .it_value = {.tv_usec = 150}};
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < rounds; i++) {
		int fd = stream(AF_INET);
		set(fd, SO_REUSEADDR);
		if (bind4(fd, "127.0.0.1", 14141) < 0)
			counts[errno]++;
		close(fd);
		fd = stream(AF_INET);
		if (connect4(fd, "127.0.0.1", 14140) < 0)
			counts[errno]++;
		else
			done++;
		struct linger hard = {.l_onoff = 1};
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		close(fd);
		int accepted = accept(listener, NULL, NULL);
		while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED))
			accepted = accept(listener, NULL, NULL);
		close(accepted);
	}
	printf("%d connected\n", done);
	return failures(counts);
}

/* Many pairs of bind and connect. */
static int pairs(int rounds) {
	int counts[134] = {0};
	int listener = server(14150, 4096);
	for (int i = 0; i < rounds; i++) {
		int fd = stream(AF_INET);
		set(fd, SO_REUSEADDR);
		if (bind4(fd, "127.0.0.1", 14151) < 0)
			counts[errno]++;
		close(fd);
		fd = stream(AF_INET);
		if (connect4(fd, "127.0.0.1", 14150) < 0)
			counts[errno]++;
		struct linger hard = {.l_onoff = 1};
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		close(fd);
		close(accept(listener, NULL, NULL));
	}
	return failures(counts);
}

/* Children that are killed while they connect and bind. */
static int killed(int rounds) {
	int listener = server(14160, 4096);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < rounds; i++) {
		pid_t child = fork();
		if (child == 0)
			for (;;) {
				int fd = stream(AF_INET);
				connect4(fd, "127.0.0.1", 14160);
				close(fd);
				fd = stream(AF_INET);
				set(fd, SO_REUSEADDR);
				bind4(fd, "127.0.0.1", 14161);
				close(fd);
			}
		usleep(rand() % 1500);
		kill(child, SIGKILL);
		int status;
		waitpid(child, &status, 0);
		if (!WIFSIGNALED(status))
			return 1;
		int accepted;
		while ((accepted = accept(listener, NULL, NULL)) >= 0)
			close(accepted);
	}
	int fd = stream(AF_INET);
	if (connect4(fd, "127.0.0.1", 14160) < 0) {
		printf("%s afterwards\n", strerrorname_np(errno));
		return 1;
	}
	return 0;
}

/* Who supervises this program already. */
static int supervised(char **command) {
	struct sock_filter allow[] = {{.code = BPF_RET | BPF_K, .k = SECCOMP_RET_ALLOW}};
	struct sock_fprog program = {.len = 1, .filter = allow};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	/* It supervises as long as its descriptor is open. */
	if (listener < 0 || fcntl(listener, F_SETFD, 0) < 0)
		return 1;
	execvp(command[0], command);
	return 127;
}

/* The port that a socket has which asked for this one. */
static int bound(int port, int reuses) {
	int fd = stream(AF_INET);
	if (reuses)
		set(fd, SO_REUSEADDR);
	if (bind4(fd, "127.0.0.1", port) < 0) {
		say("bind", strerrorname_np(errno));
		return 1;
	}
	struct sockaddr_in a;
	socklen_t length = sizeof a;
	getsockname(fd, (void *)&a, &length);
	printf("%d %d\n", ntohs(a.sin_port), (int)length);
	fflush(stdout);
	if (listen(fd, 5) < 0) {
		say("listen", strerrorname_np(errno));
		return 1;
	}
	return 0;
}

static int datagram(void) {
	int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = four("127.0.0.1", 5353);
	char byte[8] = {0};
	say("bind", name_of(bind4(server, "127.0.0.1", 5353)));
	struct iovec parts[2] = {{"he", 2}, {"llo", 3}};
	struct msghdr message = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = parts, .msg_iovlen = 2};
	printf("sendto %zd\n", sendto(client, "hello", 5, 0, (void *)&a, sizeof a));
	printf("received %zd %s\n", recv(server, byte, 8, 0), byte);
	printf("sendmsg %zd\n", sendmsg(client, &message, 0));
	printf("received %zd %s\n", recv(server, byte, 8, 0), byte);
	struct mmsghdr several[1] = {{.msg_hdr = message}};
	printf("sendmmsg %d", sendmmsg(client, several, 1, 0));
	printf(" %u\n", several[0].msg_len);
	printf("received %zd %s\n", recv(server, byte, 8, 0), byte);
	return 0;
}

int main(int count, char **words) {
	const char *what = count > 1 ? words[1] : "";
	int number = count > 2 ? atoi(words[2]) : 0;
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "semantics")) {
		binds();
		connects();
		waits();
		others();
		return 0;
	}
	if (!strcmp(what, "supervised"))
		return supervised(words + 2);
	if (!strcmp(what, "bound"))
		return bound(number, count > 3);
	if (!strcmp(what, "serve")) {
		if (bound(number, count > 3))
			return 1;
		for (;;)
			pause();
	}
	if (!strcmp(what, "hidden")) {
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
		return bound(number, 1);
	}
	if (!strcmp(what, "reach")) {
		int fd = stream(AF_INET);
		say("reach", name_of(connect4(fd, "127.0.0.1", number)));
		return 0;
	}
	if (!strcmp(what, "sweep")) {
		for (int port = 20000; port < 20000 + number; port++) {
			int fd = stream(AF_INET);
			connect4(fd, "127.0.0.1", port);
			close(fd);
		}
		return 0;
	}
	if (!strcmp(what, "datagram"))
		return datagram();
	if (!strcmp(what, "ring"))
		say("io_uring_setup", name_of((int)syscall(425, 1, NULL)));
	if (!strcmp(what, "i386"))
		return i386();
	if (!strcmp(what, "storm"))
		return storm(number);
	if (!strcmp(what, "pairs"))
		return pairs(number);
	if (!strcmp(what, "killed"))
		return killed(number);
	return 2;
}

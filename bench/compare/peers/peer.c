// A UDP peer as one would write it in C, to compare with.
//
// usage: peer plain|mmsg|gso echo|recv|send PORT
//
// plain makes one system call for each datagram, mmsg one for up to 64, gso
// has the kernel coalesce and segment as well. The socket blocks: with a
// single socket that is the cheapest way to wait. The protocol with the
// program that starts it is that of serve.go.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { BATCH = 64, SIZE = 1200, BUFFER = 4 << 20, WHOLE = 65536, RUN = 65000 / SIZE,
	BULK = 8 }; // coalesced messages to receive at once, where they are long: what the cache holds

static uint64_t count; // datagrams handled; written by one thread

static void add(uint64_t n) {
	__atomic_store_n(&count, count + n, __ATOMIC_RELAXED);
}

// control answers each line on stdin with the count, and ends with it.
static void *control(void *unused) {
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		printf("%llu 0\n", (unsigned long long)__atomic_load_n(&count, __ATOMIC_RELAXED));
		fflush(stdout);
	}
	_exit(0);
	return unused;
}

// one is the handler of a receiver: it takes a single datagram.
static __attribute__((noinline)) int one(const char *payload, size_t len) {
	__asm__ volatile("" : : "r"(payload) : "memory");
	return len == SIZE;
}

static struct batch {
	struct mmsghdr msgs[BATCH];
	struct iovec iovs[BATCH];
	struct sockaddr_in peers[BATCH];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control[BATCH];
} b;

static char *buffers; // BATCH of them

// segment returns the length of the datagrams that were coalesced into a
// message.
static size_t segment(struct mmsghdr *m) {
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m->msg_hdr); c; c = CMSG_NXTHDR(&m->msg_hdr, c))
		if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
			return *(int *)CMSG_DATA(c);
	return m->msg_len;
}

// set_segment has the kernel cut the message into datagrams of that length.
static void set_segment(struct msghdr *h, int i, uint16_t size) {
	h->msg_control = &b.control[i];
	h->msg_controllen = CMSG_SPACE(sizeof size);
	struct cmsghdr *c = CMSG_FIRSTHDR(h);
	c->cmsg_level = IPPROTO_UDP;
	c->cmsg_type = UDP_SEGMENT;
	c->cmsg_len = CMSG_LEN(sizeof size);
	memcpy(CMSG_DATA(c), &size, sizeof size);
}

static int receive(int fd, int slots, int offload) {
	size_t room = offload ? WHOLE : 2048;
	for (int i = 0; i < slots; i++) {
		struct msghdr *h = &b.msgs[i].msg_hdr;
		b.iovs[i] = (struct iovec){buffers + i * room, room};
		*h = (struct msghdr){.msg_name = &b.peers[i], .msg_namelen = sizeof b.peers[i], .msg_iov = &b.iovs[i], .msg_iovlen = 1};
		if (offload) {
			h->msg_control = &b.control[i];
			h->msg_controllen = sizeof b.control[i];
		}
	}
	return recvmmsg(fd, b.msgs, slots, MSG_WAITFORONE, NULL);
}

// send_all sends n messages; one that fails costs only itself.
static void send_all(int fd, int n) {
	for (int done = 0; done < n;) {
		int k = sendmmsg(fd, b.msgs + done, n - done, 0);
		done += k > 0 ? k : 1;
	}
}

static void echo_batch(int fd, int offload) {
	for (;;) {
		int n = receive(fd, BATCH, offload);
		if (n < 0)
			continue;
		for (int i = 0; i < n; i++) {
			struct msghdr *h = &b.msgs[i].msg_hdr;
			size_t size = offload ? segment(&b.msgs[i]) : b.msgs[i].msg_len;
			b.iovs[i].iov_len = b.msgs[i].msg_len;
			h->msg_control = NULL;
			h->msg_controllen = 0;
			if (size < b.msgs[i].msg_len)
				set_segment(h, i, size);
		}
		send_all(fd, n);
	}
}

static void recv_batch(int fd, int offload) {
	for (;;) {
		int n = receive(fd, offload ? BULK : BATCH, offload), good = 0;
		for (int i = 0; i < n; i++) {
			size_t len = b.msgs[i].msg_len, size = offload ? segment(&b.msgs[i]) : len;
			const char *p = b.iovs[i].iov_base;
			do {
				size_t k = len < size ? len : size;
				good += one(p, k);
				p += k;
				len -= k;
			} while (len > 0);
		}
		add(good);
	}
}

// send_batch sends the same batches as the other peers; with offload each is a
// message of as many datagrams as fit, and one of the rest.
static void send_batch(int fd, struct sockaddr_in *to, int offload) {
	int n = 0, run = offload ? RUN : 1;
	for (int i = 0; i < BATCH; n++, i += run) {
		int k = BATCH - i < run ? BATCH - i : run;
		b.iovs[n] = (struct iovec){buffers + i * SIZE, k * SIZE};
		struct msghdr *h = &b.msgs[n].msg_hdr;
		*h = (struct msghdr){.msg_name = to, .msg_namelen = sizeof *to, .msg_iov = &b.iovs[n], .msg_iovlen = 1};
		if (k > 1)
			set_segment(h, n, SIZE);
	}
	for (;;) {
		send_all(fd, n);
		add(BATCH);
	}
}

static void echo_plain(int fd) {
	for (;;) {
		struct sockaddr_in peer;
		socklen_t room = sizeof peer;
		ssize_t n = recvfrom(fd, buffers, 2048, 0, (struct sockaddr *)&peer, &room);
		if (n >= 0)
			sendto(fd, buffers, n, 0, (struct sockaddr *)&peer, room);
	}
}

static void recv_plain(int fd) {
	for (;;) {
		struct sockaddr_in peer;
		socklen_t room = sizeof peer;
		ssize_t n = recvfrom(fd, buffers, 2048, 0, (struct sockaddr *)&peer, &room);
		add(n >= 0 && one(buffers, n));
	}
}

static void send_plain(int fd, struct sockaddr_in *to) {
	for (;;)
		for (int i = 0; i < BATCH; i++) {
			sendto(fd, buffers + i * SIZE, SIZE, 0, (struct sockaddr *)to, sizeof *to);
			add(1);
		}
}

int main(int argc, char **argv) {
	if (argc != 4)
		return 2;
	int plain = !strcmp(argv[1], "plain"), offload = !strcmp(argv[1], "gso");
	const char *role = argv[2];

	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER, on = 1;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t room = sizeof a;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &room)) {
		perror("bind");
		return 1;
	}
	if (offload && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on)) {
		perror("UDP_GRO");
		return 1;
	}
	buffers = malloc((size_t)BATCH * WHOLE);
	for (int i = 0; i < BATCH; i++)
		memset(buffers + i * SIZE, i, SIZE);

	pthread_t t;
	pthread_create(&t, NULL, control, NULL);
	printf("%d\n", ntohs(a.sin_port));
	fflush(stdout);

	struct sockaddr_in to = a;
	to.sin_port = htons(atoi(argv[3]));
	if (!strcmp(role, "echo"))
		plain ? echo_plain(fd) : echo_batch(fd, offload);
	else if (!strcmp(role, "recv"))
		plain ? recv_plain(fd) : recv_batch(fd, offload);
	else if (!strcmp(role, "send"))
		plain ? send_plain(fd, &to) : send_batch(fd, &to, offload);
	return 2;
}

// SPDX-License-Identifier: Apache-2.0
//
// The workload of the I/O benchmark, static, for a guest's initramfs and for
// the host's side of the network:
//
//   guest_io block DEVICE MIB     sequential reads and writes of MIB MiB in
//                                 256 KiB pieces, then 4 KiB reads and writes
//                                 at random places, one at a time, O_DIRECT
//   guest_io net ADDRESS MIB      MIB MiB to and from a server, then 1-byte
//                                 round trips, over TCP
//   guest_io serve ADDRESS        the server: one client after another
//
// Each result is one line: "guest_io: NAME VALUE UNIT". DEVICE is overwritten.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kPort = 5201, kPiece = 256 << 10, kBlock = 4096, kTrips = 2000 };
static const double kRandomSeconds = 2;

static void Die(const char* what) {
  fprintf(stderr, "guest_io: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void Report(const char* name, double value, const char* unit) {
  printf("guest_io: %s %.3f %s\n", name, value, unit);
  fflush(stdout);
}

static int Compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// The median and the 99th percentile of a list of seconds, in microseconds.
static void ReportLatency(const char* name, double* times, size_t count) {
  char full[64];
  if (count == 0) return;
  qsort(times, count, sizeof(*times), Compare);
  snprintf(full, sizeof(full), "%s-p50", name);
  Report(full, times[count / 2] * 1e6, "us");
  snprintf(full, sizeof(full), "%s-p99", name);
  Report(full, times[count * 99 / 100] * 1e6, "us");
}

// xorshift64: the same places in every run.
static uint64_t Next(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void Sequential(int fd, const char* name, uint64_t size, char* buffer,
                       int writing) {
  const double start = Now();
  for (uint64_t at = 0; at < size; at += kPiece) {
    const ssize_t n = writing ? pwrite(fd, buffer, kPiece, (off_t)at)
                              : pread(fd, buffer, kPiece, (off_t)at);
    if (n != kPiece) Die(name);
  }
  if (writing && fdatasync(fd) != 0) Die("fdatasync");
  Report(name, (double)size / (1 << 20) / (Now() - start), "MiB/s");
}

static void Random(int fd, const char* name, uint64_t size, char* buffer,
                   int writing) {
  enum { kMax = 200000 };
  static double times[kMax];
  uint64_t state = 88172645463325252u;
  size_t count = 0;
  const double start = Now();
  double now = start;
  while (count < kMax && now - start < kRandomSeconds) {
    const off_t at = (off_t)(Next(&state) % (size / kBlock) * kBlock);
    const ssize_t n = writing ? pwrite(fd, buffer, kBlock, at)
                              : pread(fd, buffer, kBlock, at);
    if (n != kBlock) Die(name);
    const double then = now;
    now = Now();
    times[count++] = now - then;
  }
  Report(name, (double)count / (now - start), "IOPS");
  ReportLatency(name, times, count);
}

static void Block(const char* device, uint64_t size) {
  void* buffer = NULL;
  const int fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd < 0) Die(device);
  if (posix_memalign(&buffer, kBlock, kPiece) != 0) Die("memory");
  memset(buffer, 0x5a, kPiece);
  Sequential(fd, "warm-up", size, buffer, 1);  // the host allocates its pages
  Sequential(fd, "block-write", size, buffer, 1);
  Sequential(fd, "block-read", size, buffer, 0);
  Random(fd, "block-random-write", size, buffer, 1);
  Random(fd, "block-random-read", size, buffer, 0);
}

static void SendAll(int fd, uint64_t size, char* buffer) {
  while (size > 0) {
    const size_t piece = size < kPiece ? (size_t)size : kPiece;
    const ssize_t n = send(fd, buffer, piece, MSG_NOSIGNAL);
    if (n <= 0) Die("send");
    size -= (uint64_t)n;
  }
}

static void ReceiveAll(int fd, uint64_t size, char* buffer) {
  while (size > 0) {
    const size_t piece = size < kPiece ? (size_t)size : kPiece;
    const ssize_t n = recv(fd, buffer, piece, 0);
    if (n <= 0) Die("recv");
    size -= (uint64_t)n;
  }
}

static struct sockaddr_in Address(const char* text) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(kPort)};
  if (inet_pton(AF_INET, text, &address.sin_addr) != 1) Die(text);
  return address;
}

static int Connect(const char* text) {
  const struct sockaddr_in address = Address(text);
  const int one = 1;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 ||
      connect(fd, (const struct sockaddr*)&address, sizeof(address)) != 0) {
    Die("connect");
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  return fd;
}

// A request: what the client will do, and how much of it.
struct Request {
  char kind;  // 's' send, 'r' receive, 'p' ping
  uint64_t amount;
};

static void Net(const char* text, uint64_t size) {
  static double times[kTrips];
  static char buffer[kPiece];
  const int fd = Connect(text);
  struct Request request = {'s', size};
  SendAll(fd, sizeof(request), (char*)&request);
  double start = Now();
  SendAll(fd, size, buffer);
  ReceiveAll(fd, 1, buffer);  // it has all
  Report("net-send", (double)size / (1 << 20) / (Now() - start), "MiB/s");

  request.kind = 'r';
  SendAll(fd, sizeof(request), (char*)&request);
  start = Now();
  ReceiveAll(fd, size, buffer);
  Report("net-receive", (double)size / (1 << 20) / (Now() - start), "MiB/s");

  request = (struct Request){'p', kTrips};
  SendAll(fd, sizeof(request), (char*)&request);
  for (size_t i = 0; i < kTrips; ++i) {
    start = Now();
    SendAll(fd, 1, buffer);
    ReceiveAll(fd, 1, buffer);
    times[i] = Now() - start;
  }
  ReportLatency("net-round-trip", times, kTrips);
  close(fd);
}

static void ServeOne(int fd) {
  static char buffer[kPiece];
  const int one = 1;
  struct Request request;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  while (recv(fd, &request, sizeof(request), MSG_WAITALL) ==
         (ssize_t)sizeof(request)) {
    switch (request.kind) {
      case 's':
        ReceiveAll(fd, request.amount, buffer);
        SendAll(fd, 1, buffer);
        break;
      case 'r':
        SendAll(fd, request.amount, buffer);
        break;
      default:
        for (uint64_t i = 0; i < request.amount; ++i) {
          ReceiveAll(fd, 1, buffer);
          SendAll(fd, 1, buffer);
        }
    }
  }
}

static void Serve(const char* text) {
  const struct sockaddr_in address = Address(text);
  const int one = 1;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) Die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, (const struct sockaddr*)&address, sizeof(address)) != 0 ||
      listen(fd, 1) != 0) {
    Die("listen");
  }
  printf("guest_io: serving\n");
  fflush(stdout);
  for (;;) {
    const int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) Die("accept");
    ServeOne(client);
    close(client);
  }
}

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 4 && strcmp(argv[1], "block") == 0) {
    Block(argv[2], strtoull(argv[3], NULL, 10) << 20);
  } else if (argc == 4 && strcmp(argv[1], "net") == 0) {
    Net(argv[2], strtoull(argv[3], NULL, 10) << 20);
  } else if (argc == 3 && strcmp(argv[1], "serve") == 0) {
    Serve(argv[2]);
  } else {
    fprintf(stderr,
            "usage: guest_io block DEVICE MIB | net ADDRESS MIB | "
            "serve ADDRESS\n");
    return 2;
  }
  return 0;
}
